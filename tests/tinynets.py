"""Encoders of the catalog at sizes that a CPU test can afford: the code path of the real ones, not their cost."""

from __future__ import annotations

from typing import Any
from unittest import mock

from pipelines import catalog
from pipelines.encoders import _weights
from pipelines.encoders._base import Encoder

TINY: dict[str, dict[str, Any]] = {
    "i3d": {"PIXELS": 48, "SHORT_SIDE": 56},
    "videomae": {
        "SIZES": {
            "base": {
                "image_size": 32,
                "patch_size": 16,
                "num_frames": 16,
                "tubelet_size": 2,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "num_labels": 5,
            }
        }
    },
    "qwen2.5-vl": {
        "SIZES": {
            "7b": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "out_hidden_size": 24,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            }
        }
    },
    "internvideo2": {
        "SIZES": {
            "1b": {
                "width": 32,
                "depth": 3,
                "heads": 2,
                "hidden": 48,
                "pooled": 24,
                "pool_heads": 4,
                "frames": 4,
                "pixels": 28,
            }
        }
    },
}
OPTIONS: dict[str, dict[str, Any]] = {"qwen2.5-vl": {"pixels": 112}}


def build(name: str, **options: Any) -> Encoder:
    """The encoder, tiny where TINY has sizes for it; not loaded."""
    module, (base, _, variant) = catalog.load("encoders", name), name.partition(":")
    with mock.patch.multiple(module, **{"NAME": base, **TINY.get(base, {})}):
        encoder: Encoder = module.build(variant, module.Config(**OPTIONS.get(base, {}), **options))
    return encoder


def loaded(name: str, precision: Any = "float32", *, seed: int = 0, **options: Any) -> Encoder:
    """`build` with its own weights where they are here and it is not tiny, else with seeded random ones."""
    encoder = build(name, **options)
    own = name.partition(":")[0] not in TINY and (encoder.weights is None or _weights.locate(encoder.weights))
    if own:
        encoder.load("cpu", precision)
    else:
        encoder.load_random("cpu", precision, seed=seed)
    return encoder
