"""Fast layers compute what the ordinary ones do, and keep every name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipelines.encoders import _fast, clip


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_equals_torchs(shape, bias):
    x, weight, offset = random(*shape), random(4, 7), random(4) if bias else None
    torch.testing.assert_close(_fast.linear(x, weight, offset), F.linear(x, weight, offset), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_go_the_ordinary_way(dtype):
    x, weight = random(5, 7).to(dtype), random(4, 7).to(dtype)
    assert torch.equal(_fast.linear(x, weight, None), F.linear(x, weight))


def test_without_onednn_the_ordinary_way_is_taken(monkeypatch):
    monkeypatch.setattr(_fast, "_onednn", lambda: False)
    assert torch.equal(_fast.linear(random(5, 7), random(4, 7), None), F.linear(random(5, 7), random(4, 7)))


def test_clips_activation_is_equal_to_the_last_bit():
    x = random(50, 20)
    assert torch.equal(_fast.QuickGELU()(x.clone()), x * torch.sigmoid(1.702 * x))


def test_a_network_keeps_its_names_and_its_values():
    pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 56,
    }
    tower = clip.vision_tower({"projection_dim": 24, "vision_config": {**sizes, "projection_dim": 24}}).eval()
    names, x = list(tower.state_dict()), random(2, 3, 224, 224)
    with torch.inference_mode():
        before = tower(pixel_values=x).image_embeds
        fast = _fast.fast_layers(tower)
        after = fast(pixel_values=x).image_embeds
    assert list(fast.state_dict()) == names
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    linears = [module for module in fast.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 13 and all(type(module) is _fast.Linear for module in linears)
    assert sum(type(module) is _fast.QuickGELU for module in fast.modules()) == 2
