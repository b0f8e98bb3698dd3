"""Known totals of frames and positives, and what a difference from them means (evaluation reference, section 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownTotal:
    """One published or measured total. `truth` and `lengths` name the convention and the length rule it holds for."""

    split: str
    part: str
    truth: str
    lengths: str
    frames: int
    positives: int | None = None
    videos: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Totals found beside a known one: `known` is the row that agrees in frames (and positives, where `agrees`)."""

    agrees: bool
    message: str
    known: KnownTotal | None = None

    def as_json(self) -> dict[str, Any]:
        """What metrics.json keeps of it."""
        return {"agrees": self.agrees, "message": self.message}


REAL, FLOOR, CEIL = "decoded lengths", "floor to 16", "ceil to 16"
WU = "Wu et al. I3D feature lengths"


def _ucf(lengths: str, frames: int, half_open: int, inclusive: int, one_based: int) -> tuple[KnownTotal, ...]:
    rows = (("half_open", half_open), ("inclusive", inclusive), ("one_based", one_based))
    return tuple(KnownTotal("default", "test", truth, lengths, frames, positives, 290) for truth, positives in rows)


KNOWN: dict[str, tuple[KnownTotal, ...]] = {
    "ucf-crime": (
        *_ucf(REAL, 1_111_808, 84_182, 84_331, 84_338),
        *_ucf(FLOOR, 1_109_824, 84_160, 84_309, 84_316),
        *_ucf(WU, 1_109_680, 84_128, 84_277, 84_284),
        *_ucf(CEIL, 1_114_144, 84_189, 84_343, 84_345),
    ),
    "xd-violence": (
        KnownTotal("default", "test", "binary", WU, 2_330_384, 537_805, 800),
        KnownTotal("default", "test", "multiclass", WU, 2_330_384, 537_930, 800),
        KnownTotal("default", "test", "binary", "VadCLIP feature lengths", 2_331_296, None, 800),
    ),
    "shanghaitech": (
        KnownTotal("one-class", "test", "frames", REAL, 40_791, 17_326, 107),
        KnownTotal("one-class", "test", "frames", "first 4 frames dropped", 40_363, 17_284, 107),
        KnownTotal("hr", "test", "frames", REAL, 38_697, 16_122, 101),
        KnownTotal("weak", "test", "frames", REAL, 141_870, 7_962, 199),
        KnownTotal("weak", "test", "frames", FLOOR, 140_704, None, 199),
        KnownTotal("weak", "test", "frames", CEIL, 143_680, None, 199),
        KnownTotal("weak", "test", "frames", "RTFM's file", 142_912, 8_028, 199),
        KnownTotal("weak", "test", "frames", "PEL4VAD's file", 140_112, 7_874, 199),
    ),
    "avenue": (
        KnownTotal("default", "test", "pixel", REAL, 15_324, 3_712, 21),
        KnownTotal("default", "test", "interval", REAL, 15_324, 3_867, 21),
        KnownTotal("default", "test", "pixel", "first 4 frames dropped", 15_240, 3_700, 21),
        KnownTotal("default", "test", "interval", "first 4 frames dropped", 15_240, 3_867, 21),
    ),
    "ped2": (
        KnownTotal("default", "test", "frames", REAL, 2_010, 1_648, 12),
        KnownTotal("default", "test", "masks", REAL, 2_010, 1_648, 12),
        KnownTotal("default", "test", "frames", "first 4 frames dropped", 1_962, 1_620, 12),
    ),
    "ubnormal": (
        KnownTotal("one-class", "test", "tracks", REAL, 89_908, None, 211),
        KnownTotal("one-class", "val", "tracks", REAL, 29_071, None, 64),
    ),
}


def known_totals(dataset: str, *, split: str | None = None, part: str = "test") -> tuple[KnownTotal, ...]:
    """The known totals of a dataset (of one split, where it is named); () for a dataset without any."""
    return tuple(
        row for row in KNOWN.get(dataset, ()) if row.part == part and (split is None or row.split == split)
    )  # fmt: skip


def compare(
    dataset: str, *, split: str, part: str, truth: str, videos: int, frames: int, positives: int
) -> Comparison | None:
    """How totals stand to the known ones; None where none are known.

    A difference is named by its convention (another truth rule has exactly these positives) and by its length rule
    (another one has exactly these frames); what no row explains is flagged with the nearest one.
    """
    rows = known_totals(dataset, split=split, part=part)
    if not rows:
        return None
    found = f"{frames:,} frames, {positives:,} positive"
    size = next((row.videos for row in rows if row.videos), None)
    if size is not None and videos != size:
        return Comparison(False, f"{found} in {videos} of {size} videos: known totals are of all videos")
    same = [row for row in rows if row.frames == frames]
    own = next((row for row in same if row.truth == truth), None)
    if own is not None and own.positives in (None, positives):
        return Comparison(True, f"{found}: as known for {truth}, {own.lengths}", own)
    other = next((row for row in same if row.positives == positives), None)
    if other is not None:
        return Comparison(
            False, f"{found}: these are the positives of {other.truth!r}, not of {truth!r} ({other.lengths})", other
        )
    if own is not None:
        return Comparison(
            False, f"{found}: {own.lengths} as known, but {own.positives:,} positive are known under {truth}", own
        )
    near = min(rows, key=lambda row: (abs(row.frames - frames), row.truth != truth))
    known = f"{near.frames:,} frames" + (f", {near.positives:,} positive" if near.positives else "")
    return Comparison(
        False,
        f"{found}: no known total; the nearest is {known} ({near.truth}, {near.lengths}), {frames - near.frames:+,} frames",
        near,
    )
