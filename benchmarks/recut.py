"""Generate `surv-fight-untrimmed`: untrimmed videos with exact frame truth, re-cut from public two-second clips.

    python benchmarks/recut.py --clips-csv surv-fight/clips.csv --out surv-fight-untrimmed
    python benchmarks/recut.py --clips-csv surv-fight/clips.csv --out small --train 12 --val 4 --test 8

The clips are the Surveillance Camera Fight Dataset (Akti, Tataroglu, Ekenel, IPTA 2019); `clips.csv` has the columns
video,path,label,group,split,frames,fps. A normal video strings 6 to 12 `noFight` clips together by hard cuts; an
abnormal one has 1 to 3 `fight` clips among them. Source groups never cross splits: every fifth training group is set
aside as val. Every piece is stretched to 320x240 and resampled to 12 fps by skipping frames, so it keeps its
duration; clips filmed below 12 fps are left out, because repeated frames would give the class away.

Written under --out: `videos/<name>.mp4`; `annotations.csv` (video,start_frame,end_frame,class: 0-based, end
exclusive, touching fights merged, no row for a normal video); `composition.csv` (which clip fills which frames);
`train.txt`, `val.txt`, `test.txt` (video,label with 1 = abnormal). A video's plan depends on the seed, the clip list
and its own index only: a small set is a subset of the full one. Videos that are already there are kept.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np

SIZE = (320, 240)
RATE = 12
PARTS = {"train": 120, "val": 30, "test": 50}
HOLD_OUT_EVERY = 5
FIGHT = "fight"


@dataclass(frozen=True, slots=True)
class Piece:
    """One source clip: where it is, whether it is a fight, and its length at the common rate."""

    name: str
    path: Path
    fight: bool
    group: str
    part: str
    source_frames: int
    source_fps: Fraction

    @property
    def frames(self) -> int:
        """Frames at RATE that keep the clip's duration, at least one."""
        return max(1, round(self.source_frames * RATE / self.source_fps))

    def picks(self) -> list[int]:
        """Which source frame stands at each output frame."""
        last = self.source_frames - 1
        return [min(int(k * self.source_fps / RATE), last) for k in range(self.frames)]


@dataclass(frozen=True, slots=True)
class Recut:
    """One untrimmed video: its name and its pieces in order."""

    name: str
    part: str
    abnormal: bool
    pieces: tuple[Piece, ...]

    @property
    def bounds(self) -> list[int]:
        """First frame of every piece, and the video's length."""
        return list(accumulate((piece.frames for piece in self.pieces), initial=0))

    @property
    def events(self) -> list[tuple[int, int]]:
        """Fights as [start, end) frames; fights that touch are one event."""
        found: list[tuple[int, int]] = []
        for piece, (start, end) in zip(self.pieces, pairwise(self.bounds), strict=True):
            if not piece.fight:
                continue
            if found and found[-1][1] == start:
                start = found.pop()[0]
            found.append((start, end))
        return found


def read_pieces(clips_csv: Path) -> list[Piece]:
    """The usable clips with their part: train groups minus the held-out ones, val, test.

    Raises:
        ValueError: a source group stands in train and in test.
    """
    with clips_csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = {part: {row["group"] for row in rows if row["split"] == part} for part in ("train", "test")}
    if shared := sorted(groups["train"] & groups["test"]):
        raise ValueError(f"{clips_csv}: groups in train and test: {', '.join(shared)}")
    held_out = set(sorted(groups["train"])[::HOLD_OUT_EVERY])
    pieces = [_piece(row, clips_csv.parent, held_out) for row in rows]
    return [piece for piece in pieces if piece.source_fps >= RATE]


def _piece(row: dict[str, str], folder: Path, held_out: set[str]) -> Piece:
    part = "val" if row["group"] in held_out else row["split"]
    path, fps = folder / row["path"], Fraction(row["fps"])
    return Piece(row["video"], path, row["label"] == FIGHT, row["group"], part, int(row["frames"]), fps)


def plan(pieces: Sequence[Piece], part: str, index: int, *, abnormal: bool, seed: int) -> Recut:
    """The recipe of one video. RandomState, because its stream is the same under every numpy version."""
    rng = np.random.RandomState([seed, list(PARTS).index(part), int(abnormal), index])
    fights = [piece for piece in pieces if piece.part == part and piece.fight]
    calm = [piece for piece in pieces if piece.part == part and not piece.fight]
    total = int(rng.randint(6, 13))
    wanted = int(rng.randint(1, 4)) if abnormal else 0
    chosen = _draw(rng, fights, wanted) + _draw(rng, calm, total - wanted)
    ordered = tuple(chosen[i] for i in rng.permutation(total))
    return Recut(f"{part}_{'abnormal' if abnormal else 'normal'}_{index:03d}", part, abnormal, ordered)


def _draw(rng: np.random.RandomState, pool: Sequence[Piece], count: int) -> list[Piece]:
    return [pool[i] for i in rng.choice(len(pool), size=count, replace=False)]


def plan_all(pieces: Sequence[Piece], counts: dict[str, int], *, seed: int = 0) -> list[Recut]:
    """Every video of every part, normal ones first; of an odd count the abnormal half is the larger one."""
    planned = []
    for part, count in counts.items():
        for abnormal, number in ((False, count // 2), (True, count - count // 2)):
            planned += [plan(pieces, part, index, abnormal=abnormal, seed=seed) for index in range(number)]
    return planned


def frames_of(piece: Piece) -> Iterator[av.VideoFrame]:
    """The picked frames of a clip at SIZE in yuv420p.

    Raises:
        ValueError: the clip does not decode to the number of frames that the list states.
    """
    times = np.bincount(piece.picks(), minlength=piece.source_frames)
    count = 0
    with av.open(str(piece.path)) as container:
        for count, frame in enumerate(container.decode(video=0), start=1):
            for _ in range(int(times[count - 1]) if count <= piece.source_frames else 0):
                yield frame.reformat(*SIZE, format="yuv420p")
    if count != piece.source_frames:
        raise ValueError(f"{piece.path}: {count} frames decoded, the list says {piece.source_frames}")


def write_video(recut: Recut, path: Path) -> None:
    """Encode one video next to its place, count its decoded frames, then rename it into place."""
    aside = path.with_suffix(".part.mp4")
    codec, options = _codec()
    with av.open(str(aside), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, frame in enumerate(frame for piece in recut.pieces for frame in frames_of(piece)):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if (decoded := decoded_frames(aside)) != recut.bounds[-1]:
        raise ValueError(f"{aside}: {decoded} frames decoded, {recut.bounds[-1]} planned")
    os.replace(aside, path)


def _codec() -> tuple[str, dict[str, str]]:
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "23", "preset": "veryfast", "threads": "1", "g": "60"}
    return "mpeg4", {"qscale": "4", "flags": "+qscale", "g": "60"}


def decoded_frames(path: Path) -> int:
    """Number of frames that really decode."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def write_lists(planned: Sequence[Recut], out: Path) -> None:
    """annotations.csv, composition.csv, and one list per part."""
    events = [(r.name, start, end, FIGHT) for r in planned for start, end in r.events]
    parts = [
        (r.name, piece.name, int(piece.fight), start, end)
        for r in planned
        for piece, (start, end) in zip(r.pieces, pairwise(r.bounds), strict=True)
    ]
    _write_rows(out / "annotations.csv", [("video", "start_frame", "end_frame", "class"), *events])
    _write_rows(out / "composition.csv", [("video", "clip", "is_fight", "start_frame", "end_frame"), *parts])
    for part in PARTS:
        _write_rows(out / f"{part}.txt", [(r.name, int(r.abnormal)) for r in planned if r.part == part])


def _write_rows(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def summary(planned: Sequence[Recut]) -> Iterator[str]:
    """One line a part: videos, frames, positive frames, events."""
    for part in PARTS:
        mine = [r for r in planned if r.part == part]
        spans = [span for r in mine for span in r.events]
        yield (
            f"{part}: {len(mine)} videos ({sum(r.abnormal for r in mine)} abnormal), "
            f"{sum(r.bounds[-1] for r in mine)} frames, {sum(b - a for a, b in spans)} positive, {len(spans)} events"
        )


def generate(clips_csv: Path, out: Path, counts: dict[str, int], *, seed: int = 0) -> list[Recut]:
    """Write lists and missing videos of the whole set; returns the plans."""
    planned = plan_all(read_pieces(clips_csv), counts, seed=seed)
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    write_lists(planned, out)
    for recut in planned:
        path = videos / f"{recut.name}.mp4"
        if not path.exists():
            write_video(recut, path)
    return planned


def main() -> None:
    """Read the arguments, generate, print one line a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips-csv", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    for part, count in PARTS.items():
        parser.add_argument(f"--{part}", type=int, default=count, help=f"videos of {part}, half of them abnormal")
    args = parser.parse_args()
    counts = {part: getattr(args, part) for part in PARTS}
    for line in summary(generate(args.clips_csv, args.out, counts, seed=args.seed)):
        print(line)


if __name__ == "__main__":
    main()
