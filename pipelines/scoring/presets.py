"""Compatibility presets: what published code does once frame scores exist. Opt-in, and named wherever a number appears."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.recipe import suggest
from pipelines.records import Event
from pipelines.scoring.smooth import Smooth, minmax, smooth

SNIPPET = 16  # frames of a snippet in the weakly supervised repositories
Length = Literal["real", "floor16", "ceil16"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
A = TypeVar("A", NDArray[np.float64], NDArray[np.bool_], NDArray[np.float32])


@dataclass(frozen=True, slots=True)
class ClipFilter:
    """A mean over snippets before they are repeated: `slide` looks ahead `width` snippets, `block` averages `width` at a
    time; both see zeros beyond the last snippet ([code] PEL4VAD)."""

    kind: Literal["slide", "block"]
    width: int


@dataclass(frozen=True, slots=True)
class Preset:
    """What a repository does with frame scores.

    `works` is False for rows that are kept as a table only. `filters` names the snippet filter of each dataset,
    `crops` the one crop it tests on.
    `held` names the datasets whose last label is held where a length is rounded up; elsewhere the annotation decides.
    `gt` is the truth variant its numbers use, `metrics` the names it prints, `earlier` what happens before frame scores.
    """

    name: str
    normalise: Literal["none", "minmax"] = "none"
    smooth: Smooth = field(default_factory=Smooth)
    length: Length = "real"
    drop_first: int = 0
    drop_last: int = 0
    filters: Mapping[str, ClipFilter] = field(default_factory=dict)
    crops: Mapping[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    works: bool = False
    gt: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("auc",)
    earlier: str = ""
    source: str = ""


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            "vadclip",
            length="floor16",
            crops={"ucf-crime": "center_m", "xd-violence": "center"},
            works=True,
            gt={"ucf-crime": "half_open"},
            metrics=("auc", "ap", "ano-auc", "map-iou"),
            earlier="one crop, repeated 16 times; both branches are reported",
            source="nwpu-zxr/VadCLIP",
        ),
        Preset(
            "rtfm",
            length="ceil16",
            works=True,
            gt={"ucf-crime": "inclusive"},
            metrics=("auc", "ap-trapezoid"),
            held=("shanghaitech",),
            earlier="mean over crops of the sigmoid, repeated 16 times; on ShanghaiTech the last label is held",
            source="tianyu0207/RTFM",
        ),
        Preset(
            "pel4vad",
            length="floor16",
            filters={
                "ucf-crime": ClipFilter("slide", 7),
                "xd-violence": ClipFilter("block", 8),
                "shanghaitech": ClipFilter("slide", 3),
            },
            works=True,
            gt={"ucf-crime": "half_open"},
            metrics=("auc", "ap-trapezoid"),
            earlier="crop mean; the filter runs on snippets",
            source="yujiangpu20/PEL4VAD",
        ),
        Preset(
            "aed-mae-shanghai",
            normalise="minmax",
            smooth=Smooth("gaussian", 282.0, "zero", taps=899),
            works=True,
            metrics=("auc", "macro-auc-pad"),
            source="ristea/aed-mae",
        ),
        Preset(
            "aed-mae-avenue",
            smooth=Smooth("gaussian", 11.0, "zero", taps=37),
            metrics=("auc", "macro-auc-pad"),
            source="ristea/aed-mae",
        ),
        Preset(
            "ano_pred",
            normalise="minmax",
            drop_first=4,
            earlier="min-max of PSNR over all frames, then drop",
            source="StevenLiuWen/ano_pred_cvpr2018",
        ),
        Preset(
            "mnad",
            normalise="minmax",
            drop_first=4,
            earlier="PSNR and feature distance min-maxed apart, mixed .6 / .4; memory updated on test frames",
            source="cvlab-yonsei/MNAD",
        ),
        Preset("memae", normalise="minmax", drop_first=8, drop_last=7, source="donggong1/memae-anomaly-detection"),
        Preset("steal", normalise="minmax", drop_first=8, drop_last=7),
        Preset("fastano", normalise="minmax", drop_first=5, earlier="log10(1 / sqrt(mse))"),
        Preset(
            "hf2vad",
            smooth=Smooth("median", 17, "zero"),
            drop_first=4,
            earlier="z-score by training statistics, frame = largest box; the drop comes before the filter",
        ),
        Preset(
            "aivad", smooth=Smooth("gaussian", 3.0), metrics=("auc", "macro-auc-pad"), earlier="sigma 7 on ShanghaiTech"
        ),
        Preset(
            "jigsaw",
            normalise="minmax",
            smooth=Smooth("gaussian", 20.0, "zero", taps=49),
            metrics=("auc", "macro-auc-pad"),
            earlier="object scores, a mean filter over the score volume; 24 scores at each end stay unfiltered",
        ),
        Preset("ubnormal", smooth=Smooth("gaussian", 15.0, "zero"), metrics=("auc", "macro-auc-pad")),
        Preset("mgfn", length="ceil16", metrics=("auc", "ap-trapezoid"), earlier="its public truth file is half empty"),
        Preset("ur-dmu", metrics=("auc", "ap-trapezoid"), earlier="lengths of the Wu et al. features"),
        Preset("cmsil", metrics=("auc", "ap-trapezoid"), earlier="linear expansion of each level, mean of levels"),
        Preset("sultani", earlier="expansion bins32"),
    )
}


@dataclass(frozen=True, slots=True)
class PostProcess:
    """The fixed order after expansion: snippet filter, length rule, smooth, min-max, drop.

    `padding` says how frames past the video's end are labelled where the length is rounded up: as the last frame, or as
    the annotation has them.
    """

    smooth: Smooth = field(default_factory=Smooth)
    normalise: Literal["none", "minmax"] = "none"
    length: Length = "real"
    drop_first: int = 0
    drop_last: int = 0
    clip_filter: ClipFilter | None = None
    padding: Literal["hold", "annotated"] = "annotated"

    def scores(self, frames: Floats) -> tuple[Floats, bool]:
        """The frames (M,) processed, and whether min-max met a constant."""
        if self.clip_filter is not None:
            frames = _filter_clips(frames, self.clip_filter)
        frames = smooth(resize(frames, self.length), self.smooth)
        frames, constant = minmax(frames) if self.normalise == "minmax" else (frames, False)
        return self.crop(frames), constant

    def labels(self, labels: Bools, events: Iterable[Event] = ()) -> Bools:
        """The labels (M,) of the same frames; `events` as annotated, also past the end."""
        found, n = resize(labels, self.length), len(labels)
        if self.padding == "annotated" and len(found) > n:
            found[n:] = False
            for event in events:
                found[max(n, event.start_frames) : event.end_frames] = True
        return self.crop(found)

    def crop(self, frames: A) -> A:
        """Without the dropped frames at both ends."""
        return frames[self.drop_first : len(frames) - self.drop_last]


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: no such preset, or one that is kept as a table only.
    """
    found = PRESETS.get(name)
    working = [p.name for p in PRESETS.values() if p.works]
    if found is None:
        raise UsageError(f"unknown preset {name!r}{suggest(name, working)}", hint="one of " + ", ".join(working))
    if not found.works:
        raise UsageError(
            f"the preset {name!r} is a row of the table, not a recipe that runs",
            hint="working ones: " + ", ".join(working),
        )
    return found


def post_process(name: str, dataset: str) -> PostProcess:
    """The working preset's steps for a dataset.

    Raises:
        UsageError: see `preset`; also a preset whose filter is not published for the dataset.
    """
    found = preset(name)
    if found.filters and dataset not in found.filters:
        raise UsageError(
            f"the preset {name!r} publishes no filter for dataset {dataset!r}",
            hint="it has " + ", ".join(found.filters),
        )
    return PostProcess(
        found.smooth,
        found.normalise,
        found.length,
        found.drop_first,
        found.drop_last,
        found.filters.get(dataset),
        "hold" if dataset in found.held else "annotated",
    )


def resize(frames: A, length: Length) -> A:
    """Frames (M,) cut to whole snippets, or held to the next whole one."""
    if length == "floor16":
        return frames[: len(frames) // SNIPPET * SNIPPET]
    if length == "ceil16" and len(frames) % SNIPPET:
        return np.pad(frames, (0, SNIPPET - len(frames) % SNIPPET), mode="edge")
    return frames


def _filter_clips(frames: Floats, how: ClipFilter) -> Floats:
    clips = frames[: len(frames) // SNIPPET * SNIPPET : SNIPPET]
    if how.kind == "slide":
        padded = np.concatenate([clips, np.zeros(how.width - 1)])
        filtered = np.correlate(padded, np.full(how.width, 1.0 / how.width), "valid") if len(clips) else clips
    else:
        padded = np.concatenate([clips, np.zeros(-len(clips) % how.width)])
        filtered = np.repeat(padded.reshape(-1, how.width).mean(axis=1), how.width)[: len(clips)]
    return np.repeat(filtered, SNIPPET)
