"""CLIP through transformers, with seeded random weights of a tiny size: the code path of the real ones."""

from __future__ import annotations

import pytest
import torch

from pipelines.encoders import _checkpoint, _weights, clip
from pipelines.errors import MissingArtifactError, VerificationError

transformers = pytest.importorskip("transformers")
TINY = {
    "projection_dim": 24,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 56,
        "projection_dim": 24,
    },
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 40,
        "projection_dim": 24,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of tiny size as save_pretrained writes it."""
    path = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CLIPModel(transformers.CLIPConfig(**TINY)).save_pretrained(path)
    return path


def noise(clips: int = 2, frames: int = 1) -> torch.Tensor:
    shape = (clips, 1, frames, 224, 224, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def test_features_equal_those_of_the_librarys_own_loader(folder):
    encoder = clip.build("vit-b-32", clip.Config())
    encoder.load("cpu", "float32", weights=folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((noise()[:, 0, 0].float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(encoder.encode(noise())[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert encoder.dim == 24


def test_weights_of_ones_own_stand_for_themselves(folder):
    encoder = clip.build("vit-b-16", clip.Config())
    published = encoder.weights_sha256()
    encoder.load("cpu", "float32", weights=folder)
    assert encoder.weights_sha256() == _weights.sha256_of(folder / "model.safetensors") != published


def test_the_mean_reduction_is_the_mean_over_frames(folder):
    mean = clip.build("vit-b-16", clip.Config(reduction="mean"))
    one = clip.build("vit-b-16", clip.Config(reduction="first"))
    mean.load("cpu", "float32", weights=folder)
    one.load("cpu", "float32", weights=folder)
    frames = noise(1, 3)
    torch.testing.assert_close(mean.encode(frames)[0, 0], one.encode(frames.transpose(0, 2))[:, 0].mean(dim=0))


@pytest.mark.parametrize(("reduction", "wanted"), [("middle", (8,)), ("first", (0,)), ("mean", tuple(range(16)))])
def test_which_frames_of_a_clip_are_read(reduction, wanted):
    assert clip.build("vit-b-16", clip.Config(reduction=reduction)).positions(16) == wanted


@pytest.mark.parametrize("variant", clip.VARIANTS)
def test_every_variant_is_built_with_the_published_size(variant):
    with torch.device("meta"):
        tower = clip.vision_tower(clip.SIZES[variant])
    # Radford et al.: image towers of 86, 88 and 304 million parameters
    assert {"vit-b-16": 86_192_640, "vit-b-32": 87_849_216, "vit-l-14": 303_966_208}[variant] == sum(
        p.numel() for p in tower.parameters()
    )


def test_a_checkpoint_of_another_size_is_refused(folder):
    with pytest.raises(VerificationError, match="does not fit CLIPVisionModelWithProjection"):
        _checkpoint.load_strictly(
            clip.vision_tower({**TINY, "vision_config": {**TINY["vision_config"], "hidden_size": 64}}),
            _checkpoint.read_tensors(folder / "model.safetensors"),
            folder / "model.safetensors",
        )


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(VerificationError, match="not a readable checkpoint"):
            _checkpoint.read_tensors(tmp_path / name)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"x": Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(VerificationError, match="not a readable checkpoint"):
        _checkpoint.read_tensors(tmp_path / "pytorch_model.bin")


def test_offline_is_exit_4_and_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("VAD_WEIGHTS", raising=False)
    with pytest.raises(MissingArtifactError) as caught:
        clip.build("vit-b-32", clip.Config()).load("cpu", "float32")
    assert caught.value.exit_code == 4 and "HF_HUB_OFFLINE" in caught.value.message
    for word in ("vad weights fetch clip:vit-b-32", "model.safetensors", "openai/clip-vit-base-patch32", "VAD_WEIGHTS"):
        assert word in caught.value.hint


def test_texts_are_encoded_by_the_same_checkpoint(folder, monkeypatch):
    encoder = clip.build("vit-b-32", clip.Config())
    encoder.load("cpu", "float32", weights=folder)
    write_tokenizer(folder)
    vectors = encoder.encode_text(["a", "a b", "a"])
    assert vectors.shape == (3, 24) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1])


def write_tokenizer(folder) -> None:
    """The smallest vocabulary that CLIP's tokenizer takes."""
    import json

    words = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
