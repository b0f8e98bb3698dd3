"""VideoMAE and Qwen2.5-VL's vision tower: our way of calling the library equals the library's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.encoders import _weights, qwen2_5_vl, videomae
from pipelines.encoders._checkpoint import read_tensors
from pipelines.errors import UsageError
from pipelines.extraction.plan import choose_encoders
from tests import tinynets

transformers = pytest.importorskip("transformers")
OWN = _weights.Weights("a test", "none", "made:x.safetensors", None)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(frames: torch.Tensor, module: object) -> torch.Tensor:
    mean, std = (torch.tensor(getattr(module, name)) for name in ("MEAN", "STD"))
    return (frames.float() - mean) / std


def test_videomae_reads_the_published_names_and_gives_the_classifiers_input(tmp_path):
    config = transformers.VideoMAEConfig(**tinynets.TINY["videomae"]["SIZES"]["base"])
    model = transformers.VideoMAEForVideoClassification(config).eval()
    state = model.state_dict()
    with torch.no_grad():
        for key in state:  # biases of queries and values that are not zero tell when they are forgotten
            if key.endswith(("query.bias", "value.bias")):
                state[key].uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    from safetensors.torch import save_file

    renamed = {k.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): v.clone() for k, v in state.items()}
    save_file(renamed, tmp_path / "x.safetensors")
    assert "videomae.encoder.layer.0.attention.attention.q_bias" in read_tensors(tmp_path / "x.safetensors")
    encoder = tinynets.build("videomae:base")
    encoder.weights = OWN
    encoder.load("cpu", "float32", weights=tmp_path / "x.safetensors")
    clips = noise(2, 1, 16, 32, 32, 3)
    seen = []
    model.classifier.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        model(pixel_values=normalised(clips[:, 0], videomae).permute(0, 1, 4, 2, 3))
    torch.testing.assert_close(encoder.encode(clips)[:, 0], seen[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("clip_len", "count"), [(16, 16), (64, 16), (8, 8)])
def test_videomae_spreads_its_frames(clip_len, count):
    positions = videomae.build("base", videomae.Config()).positions(clip_len)
    assert len(positions) == count and positions[0] == 0
    assert set(np.diff(positions)) == {max(1, clip_len // 16)}


def test_qwens_patches_are_those_of_the_librarys_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, do_resize=False)
    image = noise(56, 84, 3)
    found = processor(image.numpy(), return_tensors="pt", input_data_format="channels_last")
    own = qwen2_5_vl.patches(normalised(image, qwen2_5_vl).permute(2, 0, 1)[None])
    assert found["image_grid_thw"].tolist() == [[1, 4, 6]]
    torch.testing.assert_close(own, found["pixel_values"].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduction", ["middle", "mean"])
def test_qwens_vector_is_the_mean_of_a_frames_visual_tokens(reduction):
    encoder = tinynets.loaded("qwen2.5-vl:7b", reduction=reduction)
    clips = noise(2, 1, 2 if reduction == "mean" else 1, 112, 112, 3)
    expected = []
    with torch.no_grad():
        for clip in clips[:, 0]:
            images = [normalised(frame, qwen2_5_vl).permute(2, 0, 1) for frame in clip]
            tokens = [
                encoder._network(qwen2_5_vl.patches(image[None]), grid_thw=torch.tensor([[1, 8, 8]])).pooler_output
                for image in images
            ]
            assert all(t.shape == (16, 24) for t in tokens)  # 64 patches, four to a token
            expected.append(torch.stack([t.mean(0) for t in tokens]).mean(0))
    torch.testing.assert_close(encoder.encode(clips)[:, 0], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_qwens_tower_loads_from_the_whole_models_file(tmp_path):
    from safetensors.torch import save_file

    encoder = tinynets.build("qwen2.5-vl:7b")
    source = encoder.network().state_dict()
    for prefix in ("visual.", "model.visual."):
        tensors = {f"{prefix}{key}": value.clone() for key, value in source.items()}
        save_file(
            tensors | {"model.layers.0.x": torch.zeros(1), "lm_head.weight": torch.zeros(1)}, tmp_path / "x.safetensors"
        )
        encoder.weights = OWN
        encoder._loaded = None
        encoder.load("cpu", "float32", weights=tmp_path / "x.safetensors")
        assert torch.equal(encoder._network.merger.mlp[2].weight, source["merger.mlp.2.weight"])


def test_qwens_picture_must_be_whole_tokens():
    with pytest.raises(UsageError, match="no multiple of 28"):
        choose_encoders(["qwen2.5-vl:7b"], ["pixels=100"])


def test_qwen_says_what_it_is_not():
    text = (qwen2_5_vl.__doc__ or "") + qwen2_5_vl.SUMMARY
    assert "no language model" in text and "not comparable" in text
