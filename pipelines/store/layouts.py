"""The feature layouts in circulation: whose files, how wide, which crop stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import UsageError
from pipelines.recipe import suggest
from pipelines.video.crops import CROPS

STRIDE = 16
UNKNOWN = "unknown"
WHOLE = "all"  # the crop of a vector that belongs to no crop: sound, text

# Which crop stands at which place. The last five of the two extractors below are crops of the mirrored frame, so their
# "top left" is the mirror image of the top right crop; names here mean the mirror image of the crop itself.
ORDERS: Mapping[str, tuple[str, ...]] = {
    # README of Roc-Ng/DeepMIL and nwpu-zxr/VadCLIP#2: centre, four corners, mirrors; the order of the corners is ours
    "roc-ng": CROPS["ten"],
    # [code] oversample_data of henrryzh1/UR-DMU and GowthamGottimukkala/I3D_Feature_Extraction_resnet
    "ur-dmu": ("tl", "tr", "center", "bl", "br", "tr_m", "tl_m", "center_m", "br_m", "bl_m"),
    # torchvision TenCrop, which tianyu0207/RTFM#46 and #49 name; corners, centre, the same of the mirrored frame
    "torchvision": ("tl", "tr", "bl", "br", "center", "tr_m", "tl_m", "br_m", "bl_m", "center_m"),
    UNKNOWN: tuple(f"unknown_{index}" for index in range(10)),
}

Holds = Literal["crops", "arrays", "text", "hdf5", "table"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A published layout.

    Attributes:
        about: what made the numbers.
        holds: `crops` a file for each crop (`<id>__3.npy`) or one array of all; `arrays` one array a video; `text` the
            same as numbers in a .txt; `hdf5` a dataset a video; `table` one array of all videos, one after another.
        dim: width of a vector; None where it is whatever the files have.
        n_crops: crops of a complete video; None where the shapes say.
        files_order, array_order: which crop is which (ORDERS) where each is a file, and on an array's axis.
        bare_crop: the crop that a file name without a number holds, -1 where such a file holds all of them.
        binned: the vectors are a fixed number of bins of the whole video, not clips of 16 frames.
        slack_clips: by how many clips a video may be shorter or longer than its published length.
        suffix: of a video's file name, before `.npy`.
    """

    about: str
    holds: Holds
    dim: int | None
    n_crops: int | None
    files_order: str = UNKNOWN
    array_order: str = UNKNOWN
    bare_crop: int = -1
    binned: bool = False
    slack_clips: int = 1
    suffix: str = ""


_RTFM = Layout(
    "I3D-ResNet50 features as RTFM and MGFN read them, (T, 10, 2048) a video", "arrays", 2048, 10,
    array_order="torchvision", suffix="_i3d",
)  # fmt: skip

LAYOUTS: Mapping[str, Layout] = {
    "vadclip": Layout("VadCLIP's CLIP ViT-B/16 features, a vector a 16 frames", "crops", 512, 10, files_order="roc-ng"),
    "ur-dmu": Layout(
        "I3D features as UR-DMU reads them, a vector a 16 frames", "crops", 1024, 10, array_order="ur-dmu",
        suffix="_i3d",
    ),
    "rtfm": _RTFM,
    "mgfn": _RTFM,
    "xd": Layout("XD-Violence's published I3D features, five crops a video", "crops", 1024, 5, files_order="roc-ng"),
    "pel4vad": Layout(
        "I3D features as PEL4VAD reads them, the first crop's file without a number", "crops", 1024, 10,
        files_order="roc-ng", bare_crop=0,
    ),
    "vggish": Layout(
        "VGGish features of the sound, 128 numbers a 16 frames", "arrays", 128, 1, slack_clips=2, suffix="__vggish"
    ),
    "c3d": Layout(
        "C3D fc6 features in 32 bins of each video (Sultani), as text", "text", 4096, 1, binned=True
    ),
    "hdf5": Layout("features in HDF5, a dataset a video", "hdf5", None, None),
    "npy": Layout("features of all videos in one array, with a list of names and lengths", "table", None, None),
}  # fmt: skip


def find_layout(name: str) -> Layout:
    """The layout called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in LAYOUTS:
        raise UsageError(f"unknown layout {name!r}{suggest(name, list(LAYOUTS))}: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def crop_names(order: str, n_crops: int) -> tuple[str, ...]:
    """Names of `n_crops` crops in `order`: one of ORDERS (its first ones), or names written out with commas.

    Raises:
        UsageError: an unknown order, or one of another number of crops.
    """
    if "," in order or order in CROPS["ten"]:
        names = tuple(part.strip() for part in order.split(","))
        wrong = [name for name in names if name not in CROPS["ten"] and not name.startswith(UNKNOWN)]
        if wrong or len(set(names)) < len(names):
            raise UsageError(f"--crop-order {order}: {wrong[0] if wrong else 'a name twice'}", hint=_hint())
    elif order in ORDERS:
        names = ORDERS[order] if n_crops > 1 or order != UNKNOWN else (UNKNOWN,)
        names = names[:n_crops]
    else:
        raise UsageError(f"unknown crop order {order!r}", hint=_hint())
    if len(names) != n_crops:
        raise UsageError(f"crop order {order!r} names {len(names)} crops, the files have {n_crops}", hint=_hint())
    return names


def check_names(names: Sequence[str], wanted: Sequence[str] | None) -> tuple[int, ...]:
    """Places of the `wanted` crops among `names`; of all where none are asked for.

    Raises:
        UsageError: one that is not there.
    """
    unknown = [crop for crop in wanted or () if crop not in names]
    if unknown:
        raise UsageError(f"no crop {unknown[0]!r} among {', '.join(names)}")
    return tuple(names.index(crop) for crop in wanted) if wanted else tuple(range(len(names)))


def _hint() -> str:
    return f"one of {', '.join(ORDERS)}, or names with commas: {', '.join(CROPS['ten'])}"
