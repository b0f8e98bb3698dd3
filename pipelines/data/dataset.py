"""One dataset of the manifest: videos, labels, truth and fingerprints of every named split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.data.discovery import expanded, unset
from pipelines.data.lists import Footage, Problem, Row, escapes, read_rows
from pipelines.data.schema import PARTS, Entry, Expected, Part, Source
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.recipe import fingerprint, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.data.labels import TruthFile
    from pipelines.records import Event, Video, VideoTruth


@dataclass(slots=True)
class Dataset:
    """One dataset of the manifest. Reading is lazy: lists and annotations are opened when asked for, once."""

    name: str
    entry: Entry
    manifest_path: Path
    _parts: dict[tuple[str, str], tuple[list[Video], list[Problem]]] = field(default_factory=dict, repr=False)
    _truths: dict[str, TruthFile] = field(default_factory=dict, repr=False)
    _footage: Footage | None = field(default=None, repr=False)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        return self.entry.title

    @property
    def kind(self) -> Literal["weak", "one-class"]:
        return self.entry.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order, the normal class first."""
        return self.entry.classes

    @property
    def normal(self) -> str:
        return self.entry.classes[0]

    @property
    def phrases(self) -> dict[str, str]:
        """Class name -> the words that a text encoder reads in its place; a class's title where nothing else is given."""
        return {**self.entry.class_titles, **self.entry.phrases}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.entry.splits)

    @property
    def default_split(self) -> str:
        return self.splits[0]

    @property
    def truths(self) -> tuple[str, ...]:
        return tuple(self.entry.truths)

    @property
    def default_truth(self) -> str | None:
        return next(iter(self.entry.truths), None)

    @property
    def encoder(self) -> str:
        return self.entry.encoder

    @property
    def crops(self) -> str:
        return self.entry.crops

    @property
    def clip_len(self) -> int:
        return self.entry.clip_len

    @property
    def stride(self) -> int:
        return self.entry.stride

    @property
    def licence(self) -> str:
        return self.entry.licence

    @property
    def link(self) -> str:
        return self.entry.link

    @property
    def citation(self) -> str:
        return self.entry.citation

    @property
    def primary_metrics(self) -> tuple[str, ...]:
        return self.entry.primary_metrics

    @property
    def root(self) -> Path:
        """The folder of the footage; it need not exist.

        Raises:
            MissingArtifactError: it is written with a variable that is not set.
        """
        return self._folder(expand_or_raise(self.entry.root, f"datasets.{self.name}.root"))

    @property
    def annotations(self) -> Path:
        """The annotations folder where that exists, else the root."""
        return self.folders()[0]

    def folders(self) -> tuple[Path, ...]:
        """Where lists and annotations are looked for, in order.

        Raises:
            MissingArtifactError: neither folder is known, because their variables are not set.
        """
        texts = [text for text in (self.entry.annotations, self.entry.root) if text]
        known = [self._folder(text) for text in map(expanded, texts) if text is not None]
        found = tuple(folder for folder in known if folder.is_dir())
        return found or (self.root,)

    def temporal(self, gt: str | None = None) -> bool:
        """Whether the truth says when: False where it is the video's label on every frame."""
        name = self._truth_name(gt)
        if name is None:
            return False
        readers = [reader.reader for reader in self.entry.truths[name].events]
        if "video-label" not in readers or readers[0] == "video-label":
            return readers[0] != "video-label"
        return not self.truth_file(gt).whole

    def expected(self, split: str | None = None, part: str = "test") -> Expected | None:
        """Published counts of a part, where the manifest has them."""
        return self.entry.expected.get(self._split_name(split), {}).get(part)

    # -- videos --------------------------------------------------------------------------------------------------

    def videos(self, split: str | None = None, part: Part | None = None) -> list[Video]:
        """The videos of a split (all parts) or of one part, in list order.

        `segments` is filled for the val and test parts from the default truth: () for a normal video, None where
        the truth is missing, is of another kind, or is in seconds while the video's fps is not yet known.

        Raises:
            UsageError: no such split or part.
            MissingArtifactError: none of the part's lists exists.
            VerificationError: rows that are wrong (unknown class, no label, an id twice); the first ones are named.
        """
        name = self._split_name(split)
        if part is not None and part not in PARTS:
            raise UsageError(f"no part {part!r}{suggest(part, PARTS)}: train, val or test")
        found: list[Video] = []
        problems: list[Problem] = []
        for each in PARTS if part is None else (part,):
            videos, issues = self._part(name, each)
            found += videos
            problems += [issue for issue in issues if issue.level == "error"]
        problems += _repeated(found)
        if problems:
            raise _refused(self.name, problems)
        return found

    def all_videos(self) -> list[Video]:
        """Every video of every split once, for extraction; labels may be missing (`classes` is then ()).

        Raises:
            VerificationError: an id that means two different files.
        """
        found: dict[str, Video] = {}
        for split in self.splits:
            for part in PARTS:
                for video in self._part(split, part)[0]:
                    other = found.setdefault(video.id, video)
                    if other.path == video.path or not video.path.exists():
                        continue
                    if not other.path.exists():
                        found[video.id] = video
                    else:
                        raise VerificationError(
                            f"{self.name}: the id {video.id!r} means {other.path} and {video.path}",
                            hint="give them different ids in the `video` column",
                        )
        return list(found.values())

    def video(self, video_id: str) -> Video:
        """The video called `video_id` (of the default split's parts first).

        Raises:
            UsageError: there is none.
        """
        for video in self.all_videos():
            if video.id == video_id:
                return video
        ids = [video.id for video in self.all_videos()]
        raise UsageError(f"{self.name} has no video {video_id!r}{suggest(video_id, ids)}")

    def part_videos(self, split: str, part: Part) -> list[Video]:
        """The videos of one part as far as they can be read; what is wrong with them is in `problems`."""
        return list(self._part(self._split_name(split), part)[0])

    def is_abnormal(self, video: Video) -> bool:
        """Whether the video shows an anomaly; a video without a label does not count."""
        return bool(video.classes) and self.normal not in video.classes

    def templates(self) -> tuple[str, ...]:
        """Every footage template of the entry and of its sources."""
        sources = [s for split in self.entry.splits.values() for part in PARTS for s in split.sources(part)]
        return tuple(dict.fromkeys([*self.entry.footage, *(t for source in sources for t in source.footage)]))

    def problems(self, split: str, part: Part) -> list[Problem]:
        """What is wrong with a part's rows (for `vad data check`)."""
        return list(self._part(self._split_name(split), part)[1])

    # -- truth ---------------------------------------------------------------------------------------------------

    def truth(
        self,
        video: Video,
        n_frames: int,
        *,
        gt: str | None = None,
        fps: float | None = None,
        past_end: Literal["error", "drop"] = "error",
    ) -> VideoTruth:
        """The truth of one video at its real length.

        Args:
            video: a video of this dataset.
            n_frames: the decoded length.
            gt: a named truth; the default one unless given.
            fps: the container's rate, for annotations in seconds.
            past_end: what to do with an event that begins at or after the end; `drop` is for truncated lengths.

        Raises:
            UsageError: no such truth.
            MissingArtifactError: the annotations are not there.
            VerificationError: an event past the end, or an abnormal video that the annotations do not name.
        """
        from pipelines.data import labels

        source = self.truth_file(gt)
        return labels.build(self, source, video, n_frames, fps=fps, past_end=past_end)

    def annotated(
        self, video: Video, n_frames: int, *, gt: str | None = None, fps: float | None = None
    ) -> tuple[Event, ...]:
        """The video's events as annotated, not cut at its end of `n_frames`.

        Raises:
            UsageError, MissingArtifactError, VerificationError: as `truth`.
        """
        from pipelines.data import labels

        return labels.annotated(self, self.truth_file(gt), video, n_frames, fps=fps)

    def pixel_mask(self, video: Video, *, gt: str | None = None) -> NDArray[np.bool_] | None:
        """The pixel masks (N, H, W) bool of a video at the annotation's size, or None where there are none."""
        from pipelines.data import labels

        return labels.pixel_mask(self, video, gt=gt)

    def truth_file(self, gt: str | None = None) -> TruthFile:
        """The annotations of a named truth, read once."""
        from pipelines.data import labels

        name = self._truth_name(gt)
        if name is None:
            raise UsageError(f"{self.name} has no truth: nothing says which frames are abnormal")
        if name not in self._truths:
            self._truths[name] = labels.load(self, name)
        return self._truths[name]

    # -- identity ------------------------------------------------------------------------------------------------

    def fingerprint(self, split: str | None = None, part: Part | None = None) -> str:
        """sha256 over the ids and labels of a split or part, whatever their order in the lists."""
        listed = [[video.id, video.split, sorted(video.classes)] for video in self.videos(split, part)]
        return fingerprint({"classes": list(self.classes), "videos": sorted(listed)})

    def truth_fingerprint(self, split: str | None = None, gt: str | None = None, part: Part = "test") -> str:
        """sha256 over the annotated intervals of a part under a named truth."""
        source = self.truth_file(gt)
        listed = sorted([video.id, *source.canonical(video.id)] for video in self.videos(split, part))
        return fingerprint({"truth": source.name, "temporal": self.temporal(gt), "videos": listed})

    def flat_order(self) -> dict[str, int]:
        """The test videos in list order with their lengths, for truth files that are one flat array.

        A length is the list's, else the number of images in the video's folder; a video with neither is left out.
        """
        from pipelines.data.ids import IMAGE_SUFFIXES

        order: dict[str, int] = {}
        found = self._rows(self.default_split, "test", self.entry.splits[self.default_split].sources("test"))
        lengths = self._lengths()
        for row in found[1] if found else []:
            folder = self.footage().locate(row, (found[0].footage if found else ()) or self.entry.footage, "")
            count = row.frames or lengths.get(row.id) or 0
            if not count and folder.is_dir():
                count = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
            if count:
                order[row.id] = count
        return order

    # -- inner ---------------------------------------------------------------------------------------------------

    def footage(self) -> Footage:
        """Where the footage lies; its root may be written out unexpanded when its variable is not set."""
        if self._footage is None:
            text = expanded(self.entry.root)
            root = Path(self.entry.root) if text is None else self._folder(text)
            self._footage = Footage(root, self.entry.ids == "published")
        return self._footage

    def _folder(self, text: str) -> Path:
        path = Path(text).expanduser()
        return path if path.is_absolute() else self.manifest_path.parent / path

    def _split_name(self, split: str | None) -> str:
        name = split or self.default_split
        if name not in self.splits:
            raise UsageError(f"{self.name} has no split {name!r}{suggest(name, self.splits)}: {', '.join(self.splits)}")
        return name

    def _truth_name(self, gt: str | None) -> str | None:
        if gt is not None and gt not in self.truths:
            raise UsageError(
                f"{self.name} has no truth {gt!r}{suggest(gt, self.truths)}: {', '.join(self.truths) or 'none'}"
            )
        return gt or self.default_truth

    def _part(self, split: str, part: Part) -> tuple[list[Video], list[Problem]]:
        if (split, part) not in self._parts:
            self._parts[split, part] = self._read_part(split, part)
        return self._parts[split, part]

    def _read_part(self, split: str, part: Part) -> tuple[list[Video], list[Problem]]:
        spec = self.entry.splits[split]
        if spec.base is not None:
            videos, problems = self._part(spec.base, part)
            return [video for video in videos if video.id not in spec.drop], problems
        found = self._rows(split, part, spec.sources(part))
        if found is None:
            return [], []
        source, rows = found
        problems = []
        lengths = self._lengths()
        built = [self._video(row, source, part, lengths, problems) for row in rows]
        return [video for video in built if video.id not in spec.drop], problems

    def _rows(self, split: str, part: Part, sources: Sequence[Source]) -> tuple[Source, list[Row]] | None:
        if not sources:
            return None
        folders = self.folders()
        root = self.footage().root
        for source in sources:
            media = source.media or self.entry.media
            rows = read_rows(
                source.model_copy(update={"media": media}), folders, root, published=self.entry.ids == "published"
            )
            if rows is not None:
                return source, [row for row in rows if row.split is None or _part_name(row) == part]
        wanted = ", ".join(dict.fromkeys(name for source in sources for name in source.files))
        raise MissingArtifactError(
            f"{self.name}: no list for the {part} part of split {split!r} in {' or '.join(map(str, folders))} "
            f"(looked for {wanted})",
            hint=f"`vad data show {self.name}` says which files belong there",
        )

    def _lengths(self) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for source in self.entry.lengths:
            rows = read_rows(source, self.folders(), None, published=self.entry.ids == "published") or []
            for row in rows:
                if row.frames is not None:
                    lengths.setdefault(row.id, row.frames)
        return lengths

    def _video(
        self, row: Row, source: Source, part: Part, lengths: Mapping[str, int], problems: list[Problem]
    ) -> Video:
        from pipelines.data import labels
        from pipelines.records import Video

        classes = labels.classes_of(self.entry, row, source.label or self.entry.label, problems)
        folder = Path(row.path.replace("\\", "/")).parent.name
        path = self.footage().locate(row, source.footage or self.entry.footage, folder)
        if escapes(path, self.footage().root):
            problems.append(
                Problem("error", "path", f"{row.where}: {row.path!r} escapes the root {self.footage().root}", row.id)
            )
        video = Video(
            id=row.id,
            path=path,
            split=part,
            classes=classes,
            group=row.group or _matched(self.entry.group.pattern, row.bare),
            camera=row.camera or _matched(self.entry.camera, row.bare),
            n_frames=row.frames or lengths.get(row.id),
            fps=row.fps,
        )
        return labels.with_segments(self, video, source.label or self.entry.label, problems)


def _part_name(row: Row) -> str:
    known = {"training": "train", "testing": "test", "validation": "val", "valid": "val"}
    name = (row.split or "").lower()
    return known.get(name, name)


def _matched(pattern: str | None, text: str) -> str | None:
    found = re.search(pattern, text) if pattern else None
    return (found.group(1) if found.re.groups else found.group()) if found else None


def _repeated(videos: Sequence[Video]) -> list[Problem]:
    seen: dict[str, Video] = {}
    problems = []
    for video in videos:
        if video.id in seen:
            other = seen[video.id]
            problems.append(
                Problem(
                    "error", "duplicate", f"the id {video.id!r} is listed twice: {other.path} ({other.split}) and "
                    f"{video.path} ({video.split}); give them different ids in the `video` column", video.id,
                )
            )  # fmt: skip
        seen[video.id] = video
    return problems


def _refused(name: str, problems: Sequence[Problem]) -> VerificationError:
    shown = "\n  ".join(problem.message for problem in problems[:5])
    more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
    return VerificationError(
        f"the lists of {name} have {len(problems)} errors:\n  {shown}{more}", hint=f"vad data check {name}"
    )


def expand_or_raise(text: str, where: str) -> str:
    """`text` with its variables replaced.

    Raises:
        MissingArtifactError: one is not set; it is named with what to type.
    """
    found = expanded(text)
    if found is None:
        variable = unset(text)
        raise MissingArtifactError(
            f"{where} is {text!r}, and {variable} is not set",
            hint=f"export {variable}=/the/folder/that/holds/the/datasets",
        )
    return found
