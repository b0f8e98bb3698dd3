"""InternVideo2's tower against its definition, written out; its checkpoint's names; its size by arithmetic."""

from __future__ import annotations

import pytest
import torch

from pipelines.encoders import _checkpoint, internvideo2
from pipelines.encoders._internvideo2 import InternVideo2, Sizes
from pipelines.errors import VerificationError
from tests import tinynets

TINY = Sizes(**tinynets.TINY["internvideo2"]["SIZES"]["1b"])


def tower(*, pooling: bool = True) -> InternVideo2:
    network = InternVideo2(TINY, pooling=pooling)
    _checkpoint.randomise(network, seed=0)
    return network.eval().requires_grad_(False)


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """(queries, D), (tokens, D) -> (queries, D), head by head."""
    width = q.shape[1] // heads
    parts = []
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        weights = (q[:, at] @ k[:, at].T / width**0.5).softmax(dim=1)
        parts.append(weights @ v[:, at])
    return torch.cat(parts, dim=1)


def by_definition(state: dict[str, torch.Tensor], clip: torch.Tensor, depth: int) -> torch.Tensor:
    """Tokens (1 + 16, 32) of one clip (3, 4, 28, 28) after `depth` blocks."""
    patches = clip.reshape(3, 4, 2, 14, 2, 14).permute(1, 2, 4, 0, 3, 5).reshape(16, 3 * 14 * 14)
    x = patches @ state["patch_embed.proj.weight"].reshape(32, -1).T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"][0], x]) + state["pos_embed"][0]
    for i in range(depth):
        s = {key.removeprefix(f"blocks.{i}."): value for key, value in state.items()}
        q, k, v = (rms(x, s["norm1.weight"]) @ s["attn.qkv.weight"].T).chunk(3, dim=1)
        y = attend(rms(q, s["attn.q_norm.weight"]), rms(k, s["attn.k_norm.weight"]), v, TINY.heads)
        x = x + s["ls1.gamma"] * (y @ s["attn.proj.weight"].T + s["attn.proj.bias"])
        y = rms(x, s["norm2.weight"]) @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"]
        y = torch.nn.functional.gelu(y) @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"]
        x = x + s["ls2.gamma"] * y
    return x


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, (32,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def test_the_tower_is_what_the_paper_says():
    network, state = tower(), tower().state_dict()
    for key in state:  # biases and scales that are not 0 and 1 tell when one is forgotten
        if state[key].ndim == 1:
            state[key].uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(len(key)))
    network.load_state_dict(state)
    clip = torch.randn(3, 4, 28, 28, generator=torch.Generator().manual_seed(1))
    x = by_definition(state, clip, TINY.depth)
    pool = {key.removeprefix("clip_projector."): value for key, value in state.items()}
    a = "cross_attn."
    query = norm(x.mean(0, keepdim=True), pool, "norm1_q") @ pool[a + "q.weight"].T + pool[a + "q_bias"]
    keys = norm(x, pool, "norm1_k") @ pool[a + "k.weight"].T + pool[a + "k_bias"]
    values = norm(x, pool, "norm1_v") @ pool[a + "v.weight"].T + pool[a + "v_bias"]
    expected = attend(query, keys, values, TINY.pool_heads) @ pool[a + "proj.weight"].T + pool[a + "proj.bias"]
    torch.testing.assert_close(network(clip[None]), expected, rtol=1e-3, atol=1e-4)


def test_token_output_stops_before_the_last_block():
    network = tower(pooling=False)
    clip = torch.randn(3, 4, 28, 28, generator=torch.Generator().manual_seed(2))
    expected = by_definition(network.state_dict(), clip, TINY.depth - 1)[1:].mean(0, keepdim=True)
    torch.testing.assert_close(network(clip[None]), expected, rtol=1e-3, atol=1e-4)


def test_the_size_is_the_sum_of_its_layers():
    w, h, p = 1408, 6144, 768
    block = 3 * w * w + (w * w + w) + (w * h + h) + (h * w + w) + 2 * w + 2 * w + 2 * w  # norms, q and k norms, scales
    pool = 3 * 2 * w + 3 * w * w + 3 * w + (w * p + p)
    embed = 3 * 14 * 14 * w + w + w + (4 * 16 * 16 + 1) * w
    with torch.device("meta"):
        count = sum(x.numel() for x in internvideo2.build("1b", internvideo2.Config()).network().parameters())
    assert count == 40 * block + pool + embed == 1_019_266_816


@pytest.mark.parametrize("prefix", ["", "vision_encoder."])
def test_a_checkpoint_with_other_towers_loads_by_name(tmp_path, monkeypatch, prefix):
    encoder = tinynets.build("internvideo2:1b")
    source = tower().state_dict()
    others = {"text_encoder.x": torch.zeros(2), "temp": torch.ones(()), "clip_decoder.0.head.weight": torch.zeros(2)}
    path = tmp_path / "tower.pt"
    torch.save({"module": {f"{prefix}{key}": value.bfloat16() for key, value in source.items()} | others}, path)
    encoder.weights = internvideo2._weights.Weights("a test", "none", "made:tower.pt", None)
    encoder.load("cpu", "float32", weights=path)
    clip = torch.randint(0, 256, (1, 1, 4, 28, 28, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    mean, std = (torch.tensor(v) for v in (internvideo2.MEAN, internvideo2.STD))
    frames = ((clip[:, 0].float() - mean) / std).permute(0, 4, 1, 2, 3)
    network = tower()
    network.load_state_dict({key: value.bfloat16().float() for key, value in source.items()})
    torch.testing.assert_close(encoder.encode(clip)[0], network(frames), rtol=1e-3, atol=1e-4)
    torch.save({"head.weight": torch.zeros(1)} | source, path)
    fresh = tinynets.build("internvideo2:1b")
    fresh.weights = encoder.weights
    with pytest.raises(VerificationError, match=r"head\.weight .* no such key"):
        fresh.load("cpu", "float32", weights=path)


@pytest.mark.parametrize(
    ("clip_len", "wanted"), [(16, (0, 4, 8, 12)), (8, (0, 2, 4, 6)), (4, (0, 1, 2, 3)), (2, (0, 1))]
)
def test_four_frames_are_spread_over_a_clip(clip_len, wanted):
    assert internvideo2.build("1b", internvideo2.Config()).positions(clip_len) == wanted


def test_a_short_clips_frames_are_repeated_evenly():
    encoder = tinynets.loaded("internvideo2:1b")
    two = torch.randint(0, 256, (1, 1, 2, 28, 28, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    four = two[:, :, [0, 0, 1, 1]]
    torch.testing.assert_close(encoder.encode(two), encoder.encode(four))
