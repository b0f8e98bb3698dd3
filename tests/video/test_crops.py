"""Named crops: where they lie, that ten are ten single ones, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.errors import UsageError
from pipelines.video.crops import CROPS, cut, resized_size


def frames(height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Random uint8 (2, 3, H, W, 3)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (2, 3, height, width, 3), dtype=np.uint8))


def test_crop_names_and_counts() -> None:
    assert {name: len(crops) for name, crops in CROPS.items()} == {"center": 1, "five": 5, "ten": 10}
    assert CROPS["ten"][5:] == ("center_m", "tl_m", "tr_m", "bl_m", "br_m")


def test_crops_lie_where_their_names_say() -> None:
    clip = frames(7, 10)
    crops = cut(clip, names=CROPS["ten"], resize=None, crop_px=(4, 5))
    by_name = dict(zip(CROPS["ten"], crops.unbind(1), strict=True))
    assert crops.shape == (2, 10, 3, 4, 5, 3)
    assert crops.is_contiguous()
    # 3 rows and 5 columns are left over; the centre leaves 1 above and 2 to the left.
    expected = {
        "center": clip[:, :, 1:5, 2:7],
        "tl": clip[:, :, :4, :5],
        "tr": clip[:, :, :4, 5:],
        "bl": clip[:, :, 3:, :5],
        "br": clip[:, :, 3:, 5:],
    }
    for name, pixels in expected.items():
        assert torch.equal(by_name[name], pixels), name
        assert torch.equal(by_name[f"{name}_m"], pixels.flip(3)), name


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [32, (33, 47), None])
def test_ten_crops_equal_ten_single_crops(interpolation: str, resize: int | tuple[int, int] | None) -> None:
    clip = frames(60, 81)
    options = {"resize": resize, "crop_px": (28, 30), "interpolation": interpolation}
    together = cut(clip, names=CROPS["ten"], **options)
    for index, name in enumerate(CROPS["ten"]):
        assert torch.equal(together[:, index], cut(clip, names=[name], **options)[:, 0]), name


def test_a_clip_is_resized_like_each_of_its_frames() -> None:
    clip = frames(50, 70)
    whole = cut(clip, names=["center"], resize=32, crop_px=None)
    single = cut(clip[1:, 2:], names=["center"], resize=32, crop_px=None)
    assert whole.shape == (2, 1, 3, 32, 44, 3)
    assert torch.equal(whole[1:, :, 2:], single)


def test_resizing_keeps_a_constant_and_halves_blocks_exactly() -> None:
    flat = torch.full((1, 1, 40, 60, 3), 77, dtype=torch.uint8)
    assert (cut(flat, names=["center"], resize=20, crop_px=None) == 77).all()
    blocks = frames(4, 6)[:1, :1].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    small = cut(blocks, names=["center"], resize=(32, 48), crop_px=None)
    assert torch.equal(small[:, 0], blocks)  # its own size: untouched


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((240, 320), 256, (256, 341)),  # 341.33 rounded down
        ((320, 240), 256, (341, 256)),
        ((480, 856), None, (480, 856)),
        ((480, 856), (112, 112), (112, 112)),
        ((1, 5000), 224, (224, 1120000)),
        ((5000, 3), 2, (3333, 2)),
    ],
)
def test_short_side_rule(
    size: tuple[int, int], resize: int | tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    assert resized_size(*size, resize) == expected


def test_antialiasing_is_on() -> None:
    stripes = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, :, ::2] = 255  # one-pixel stripes: without antialiasing a quarter-size image keeps extremes
    small = cut(stripes, names=["center"], resize=16, crop_px=None)
    assert int(small.min()) > 100 and int(small.max()) < 155


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["middle"], "resize": None, "crop_px": (4, 4)}, "middle"),
        ({"names": [], "resize": None, "crop_px": (4, 4)}, "none"),
        ({"names": ["tl"], "resize": None, "crop_px": None}, "tl"),
        ({"names": ["center"], "resize": (20, 20), "crop_px": (24, 20)}, r"crop of 24x20 .* frame of 20x20"),
        ({"names": ["center"], "resize": None, "crop_px": (4, 64)}, r"frame of 30x40"),
        ({"names": ["center"], "resize": 20, "crop_px": None, "interpolation": "area"}, "area"),
    ],
)
def test_what_cannot_be_cut_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cut(frames(30, 40), **options)
