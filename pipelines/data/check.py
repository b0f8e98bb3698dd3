"""`vad data check`: what is wrong with a dataset on this disk, in plain words, and what is known to be odd about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.data import labels as labels_module
from pipelines.data.annotations import Annotations
from pipelines.data.dataset import Dataset
from pipelines.data.holdout import leaks
from pipelines.data.ids import IMAGE_SUFFIXES, VIDEO_SUFFIXES, normalise_id, own_id
from pipelines.data.labels import TruthFile
from pipelines.data.lists import Problem
from pipelines.data.schema import PARTS, Part
from pipelines.data.totals import compare
from pipelines.errors import MissingArtifactError, VadError, VerificationError
from pipelines.progress import Progress, Silent

if TYPE_CHECKING:
    from pipelines.records import Video

Probe = Callable[[Path], tuple[int, float | None]]
NAMED = 20  # findings of one kind that are named one by one before the rest is counted


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one dataset and the counts that were seen: `counts[split][part]`."""

    dataset: str
    findings: tuple[Problem, ...]
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")


def check(
    dataset: Dataset,
    *,
    lengths: Mapping[str, int] | None = None,
    expected_frames: Mapping[str, int] | None = None,
    rates: Mapping[str, float] | None = None,
    probe: Probe | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check one dataset against its manifest entry and against the disk.

    Args:
        dataset: a dataset of the manifest.
        lengths: decoded lengths by video id, where features are stored; they win over every other source.
        expected_frames: the containers' own counts, to report where decoding gave another number.
        rates: frames per second by video id, for annotations in seconds.
        probe: gives (frames, fps) of a file, for annotated videos where nothing else says them.
        progress: told of the work on videos.

    Raises:
        MissingArtifactError: the dataset is not on this disk at all.
    """
    checker = _Checker(dataset, dict(lengths or {}), dict(rates or {}), probe, progress or Silent())
    checker.run(dict(expected_frames or {}))
    return Report(dataset.name, tuple(checker.findings), checker.counts)


class _Checker:
    """One pass over a dataset; the findings collect in order of what a user should look at first."""

    def __init__(
        self,
        dataset: Dataset,
        lengths: dict[str, int],
        rates: dict[str, float],
        probe: Probe | None,
        progress: Progress,
    ) -> None:
        self.dataset, self.lengths, self.rates = dataset, lengths, rates
        self.probe, self.progress = probe, progress
        self.findings: list[Problem] = []
        self.counts: dict[str, dict[str, dict[str, int]]] = {}
        self.parts: dict[tuple[str, Part], list[Video]] = {}

    def run(self, expected_frames: Mapping[str, int]) -> None:
        self.read_lists()
        videos = {video.id: video for listed in self.parts.values() for video in listed}
        self.find_footage(list(videos.values()))
        for split in self.dataset.splits:
            self.check_counts(split)
            self.check_groups(split)
        self.find_lengths([video for listed in self.parts.values() for video in listed])
        for name in self.dataset.truths:
            self.check_truth(name, videos)
        self.compare_truths(videos)
        for video_id, count in expected_frames.items():
            if video_id in self.lengths and self.lengths[video_id] != count:
                self.warn(
                    "header", f"{video_id}: the file promises {count} frames, {self.lengths[video_id]} decode; "
                    "the decoded count is used", video_id,
                )  # fmt: skip
        for note in self.dataset.entry.notes:
            self.add("note", "known", note)

    # -- lists and footage ---------------------------------------------------------------------------------------

    def read_lists(self) -> None:
        missing: list[MissingArtifactError] = []
        for split in self.dataset.splits:
            seen: dict[str, Video] = {}
            for part in PARTS:
                try:
                    problems = self.dataset.problems(split, part)
                    listed = self.dataset.part_videos(split, part)
                except MissingArtifactError as error:
                    missing.append(error)
                    self.error("list", error.message)
                    continue
                except VerificationError as error:
                    self.error("list", error.message)
                    continue
                self.findings += [problem for problem in problems if problem not in self.findings]
                self.parts[split, part] = listed
                for video in listed:
                    if video.id in seen:
                        self.error(
                            "duplicate", f"{video.id!r} is listed twice: {seen[video.id].path} "
                            f"({seen[video.id].split}) and {video.path} ({video.split})", video.id,
                        )  # fmt: skip
                    seen[video.id] = video
        if missing and not any(self.parts.values()):
            raise missing[0]

    def find_footage(self, videos: Sequence[Video]) -> None:
        footage = self.dataset.footage()
        absent = [video for video in videos if not footage.exists(video.path)]
        if videos and len(absent) == len(videos):
            self.warn("missing", f"no footage under {footage.root}: none of the {len(videos)} videos is there")
            return
        self.many("error", "missing", "listed but not there", [(v.id, f"{v.id}: no file {v.path}") for v in absent])
        extra = self.extra(videos)
        level = "warning" if self.dataset.entry.ids == "published" else "error"
        self.many(level, "extra", "there but in no list", [(None, f"{path}: in no list") for path in extra])
        for name, paths in footage.duplicates(self.dataset.templates()).items():
            if any(video.id == name for video in videos):
                self.warn("duplicate", f"{name}: in two folders, {paths[0]} and {paths[1]}", name)

    def extra(self, videos: Sequence[Video]) -> list[Path]:
        """Footage beside listed footage that no split lists."""
        footage = self.dataset.footage()
        listed = {video.path for video in videos}
        folders = sorted({video.path.parent for video in videos if footage.exists(video.path)})
        found: list[Path] = []
        key = normalise_id if self.dataset.entry.ids == "published" else own_id
        known = {key(video.path.name) for video in videos}
        for folder in folders:
            for path in sorted(folder.iterdir()):
                if path in listed or path.name.startswith("."):
                    continue
                if path.suffix.lower() in VIDEO_SUFFIXES and (
                    self.dataset.entry.ids == "own" or key(path.name) not in known
                ):
                    found.append(path)
        return found

    # -- counts and groups ---------------------------------------------------------------------------------------

    def check_counts(self, split: str) -> None:
        self.counts[split] = {}
        for part in PARTS:
            listed = self.parts.get((split, part), [])
            abnormal = sum(self.dataset.is_abnormal(video) for video in listed)
            if listed:
                self.counts[split][part] = {"videos": len(listed), "abnormal": abnormal}
            expected = self.dataset.expected(split, part)
            if expected is None or (split, part) not in self.parts:
                continue
            for what, count, known in (
                ("videos", len(listed), expected.videos),
                ("abnormal videos", abnormal, expected.abnormal),
            ):
                if known is not None and count != known:
                    self.error("count", f"{split}/{part}: {count} {what}, {known} are expected")

    def check_groups(self, split: str) -> None:
        shared = leaks(self.parts.get((split, part), []) for part in PARTS)
        if shared and self.dataset.entry.group.published_overlap:
            some = ", ".join(list(shared)[:3])
            self.warn(
                "group", f"{split}: {len(shared)} groups have videos on two sides of the published split ({some}, ...): "
                "a share held out of train must keep groups whole",
            )  # fmt: skip
        elif shared:
            self.many(
                "error", "group", "on two sides of a split",
                [(None, f"{split}: the group {name!r} is in {' and '.join(parts)}") for name, parts in shared.items()],
            )  # fmt: skip

    # -- lengths and truth ---------------------------------------------------------------------------------------

    def find_lengths(self, videos: Sequence[Video]) -> None:
        """Lengths in this order: stored features, the lists, the number of images, the probe (annotated videos only)."""
        for video in videos:
            stated = video.n_frames
            if video.id in self.lengths and stated and self.lengths[video.id] != stated:
                self.warn(
                    "length", f"{video.id}: {self.lengths[video.id]} frames decode, the list says {stated}", video.id
                )  # fmt: skip
            if stated:
                self.lengths.setdefault(video.id, stated)
            if video.fps:
                self.rates.setdefault(video.id, video.fps)
        seconds = self.annotated()
        footage = self.dataset.footage()
        unknown = {
            video.id: video for video in videos
            if video.id in seconds and footage.exists(video.path)
            and (video.id not in self.lengths or (seconds[video.id] and video.id not in self.rates))
        }  # fmt: skip
        if not unknown:
            return
        self.progress.start(len(unknown), "lengths")
        for video in unknown.values():
            self.measure(video)
            self.progress.advance()
        self.progress.finish()

    def annotated(self) -> dict[str, bool]:
        """Ids that a truth names with events, and whether these are in seconds."""
        found: dict[str, bool] = {}
        for name in self.dataset.truths:
            try:
                source = self.dataset.truth_file(name)
            except VadError:
                continue
            for video_id, intervals in source.events.intervals.items():
                if intervals:
                    found[video_id] = found.get(video_id, False) or any(one.seconds for one in intervals)
        return found

    def measure(self, video: Video) -> None:
        if video.path.is_dir():
            count = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in video.path.iterdir())
            self.lengths.setdefault(video.id, count)
        elif self.probe is not None:
            try:
                count, rate = self.probe(video.path)
            except VadError as error:
                self.error("unreadable", f"{video.id}: {error.message}", video.id)
                return
            self.lengths.setdefault(video.id, count)
            if rate:
                self.rates.setdefault(video.id, rate)

    def check_truth(self, name: str, videos: Mapping[str, Video]) -> None:
        try:
            source = self.dataset.truth_file(name)
        except MissingArtifactError as error:
            level = self.error if name == self.dataset.default_truth else self.warn
            level("truth", f"truth {name!r}: {error.message}")
            return
        except VerificationError as error:
            self.error("truth", f"truth {name!r}: {error.message}")
            return
        if source.whole:
            return
        tested = {v.id: v for (_, part), listed in self.parts.items() if part != "train" for v in listed}
        unnamed = [v for v in tested.values() if self.dataset.is_abnormal(v) and v.id not in source.events.intervals]
        self.many(
            "error", "truth", "abnormal without annotation",
            [(v.id, f"{v.id}: is {'+'.join(v.classes)}, but truth {name!r} does not name it") for v in unnamed],
        )  # fmt: skip
        unknown = [key for key in source.events.intervals if key not in videos]
        self.many(
            "warning", "truth", "annotated but in no list",
            [(key, f"truth {name!r}: {key} is annotated but in no list") for key in unknown],
        )  # fmt: skip
        clamped = {video.id: self.check_events(name, source, video) for video in tested.values()}
        named = [key for key, count in clamped.items() if count]
        if named:
            some = ", ".join(named[:NAMED]) + (", ..." if len(named) > NAMED else "")
            self.warn(
                "clamped", f"truth {name!r}: {sum(clamped.values())} events end after their video and are cut there: {some}"
            )  # fmt: skip
        self.check_overlaps(name, source)
        for split in self.dataset.splits:
            self.check_totals(split, name)

    def check_events(self, name: str, source: TruthFile, video: Video) -> int:
        """Whether the video's events stand within it; the number that is cut at its end."""
        found = source.events.intervals.get(video.id)
        if found is None:
            return 0
        if found and video.classes and not self.dataset.is_abnormal(video):
            self.error(
                "truth",
                f"{video.id}: listed as {self.dataset.normal}, truth {name!r} has {len(found)} events",
                video.id,
            )
            return 0
        if not found and self.dataset.is_abnormal(video):
            level = self.error if self.dataset.entry.ids == "own" else self.warn
            level(
                "truth", f"{video.id}: is {'+'.join(video.classes)}, but truth {name!r} has no event for it", video.id
            )
        length = self.lengths.get(video.id)
        stated = source.events.lengths.get(video.id)
        if length is not None and stated is not None and stated != length:
            self.warn("length", f"{video.id}: {length} frames, but truth {name!r} was made for {stated}", video.id)
        rate = self.rates.get(video.id)
        if length is None or (any(one.seconds for one in found) and not rate):
            return 0
        try:
            events = labels_module.named(self.dataset.entry, video.classes, found, rate)
        except VerificationError as error:
            if all(error.message != finding.message for finding in self.findings):
                self.error("class", error.message, video.id)
            return 0
        late = [event for event in events if event.start_frames >= length]
        for event in late:
            self.error(
                "event", f"{video.id}: an event begins at frame {event.start_frames}, the video ends at {length} "
                f"(truth {name!r})", video.id,
            )  # fmt: skip
        past = [event for event in events if event.start_frames < length < event.end_frames]
        for event in past[:1]:
            if event.end_frames - length > 1 + length // 100:
                self.warn(
                    "event", f"{video.id}: an event ends at frame {event.end_frames}, the video at {length} "
                    f"(truth {name!r}): cut there", video.id,
                )  # fmt: skip
        return len(past)

    def check_overlaps(self, name: str, source: TruthFile) -> None:
        same, cross = overlaps(source.events)
        if same or cross:
            self.add(
                "note", "overlap", f"truth {name!r}: {same} pairs of events of one class and {cross} pairs of two classes "
                "overlap; kept apart for detection, united for frame labels",
            )  # fmt: skip

    def check_totals(self, split: str, name: str) -> None:
        """Totals of the test part beside the known ones, where every length is known."""
        listed = self.parts.get((split, "test"), [])
        if not listed or any(video.id not in self.lengths for video in listed):
            return
        try:
            truths = [
                self.dataset.truth(v, self.lengths[v.id], gt=name, fps=self.rates.get(v.id), past_end="drop")
                for v in listed
            ]
        except VadError:
            return
        frames, positives = sum(t.n_frames for t in truths), sum(int(t.labels.sum()) for t in truths)
        whole = [t.video_id for t in truths if t.n_frames and t.labels.all()]
        if whole:
            self.add("note", "all-abnormal", f"truth {name!r}: abnormal in every frame: {', '.join(whole[:NAMED])}")
        if split in self.counts and name == self.dataset.default_truth:
            self.counts[split].setdefault("test", {}).update(frames=frames, positives=positives)
        found = compare(
            self.dataset.name,
            split=split,
            part="test",
            truth=name,
            videos=len(truths),
            frames=frames,
            positives=positives,
        )
        if found is not None:
            self.add("note" if found.agrees else "warning", "totals", f"{split}/{name}: {found.message}")

    def compare_truths(self, videos: Mapping[str, Video]) -> None:
        """How the other truths differ from the default one, in frames and videos."""
        names = self.dataset.truths
        for other in names[1:]:
            try:
                first, second = self.dataset.truth_file(names[0]), self.dataset.truth_file(other)
            except VadError:
                continue
            if first.whole or second.whole:
                continue
            frames = [difference(first, second, key, self.lengths.get(key)) for key in videos]
            count = sum(value > 0 for value in frames)
            if not count and any(
                source.intervals.get(key) for source in (first.events, second.events) for key in videos
            ):
                self.add("note", "truths", f"truths {names[0]!r} and {other!r} agree on every frame")
            if count:
                self.add(
                    "note",
                    "truths",
                    f"truths {names[0]!r} and {other!r} differ on {sum(frames):,} frames in {count} videos",
                )

    # -- collecting ----------------------------------------------------------------------------------------------

    def add(self, level: str, kind: str, message: str, video: str | None = None) -> None:
        found = Problem(level, kind, message, video)  # type: ignore[arg-type]
        if found not in self.findings:  # a truth is looked at once a split
            self.findings.append(found)

    def error(self, kind: str, message: str, video: str | None = None) -> None:
        self.add("error", kind, message, video)

    def warn(self, kind: str, message: str, video: str | None = None) -> None:
        self.add("warning", kind, message, video)

    def many(self, level: str, kind: str, what: str, items: Iterable[tuple[str | None, str]]) -> None:
        """Every item is a finding of its own, so that `--json` has all; the table shortens."""
        for video, message in items:
            self.add(level, kind, message, video)


def overlaps(source: Annotations) -> tuple[int, int]:
    """Pairs of overlapping events within a video: (of one class, of two classes)."""
    counted: Counter[bool] = Counter()
    for intervals in source.intervals.values():
        for index, first in enumerate(intervals):
            for second in intervals[index + 1 :]:
                if first.start < second.end and second.start < first.end:
                    counted[first.label == second.label] += 1
    return counted[True], counted[False]


def difference(first: TruthFile, second: TruthFile, video_id: str, length: int | None) -> int:
    """Frames on which the frame labels of two truths disagree for a video (events in frames only)."""
    sources = [source.labels or source.events for source in (first, second)]
    found = [source.intervals.get(video_id, ()) for source in sources]
    if any(one.seconds for intervals in found for one in intervals):
        return 0
    end = length or int(max((one.end for intervals in found for one in intervals), default=0))
    marks = np.zeros((2, end), dtype=bool)
    for row, intervals in enumerate(found):
        for one in intervals:
            marks[row, int(one.start) : int(one.end)] = True
    return int((marks[0] != marks[1]).sum())
