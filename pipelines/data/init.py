"""`vad data init FOLDER`: a manifest entry and a csv to fill in, for somebody's own videos."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.artifacts import write_text
from pipelines.data.discovery import read_yaml
from pipelines.data.ids import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key, split_suffix
from pipelines.data.schema import Part, parse
from pipelines.errors import MissingArtifactError, UsageError, VadError
from pipelines.records import NORMAL

COLUMNS = ("video", "path", "label", "split", "group")
EVENTS = ("video", "start_s", "end_s", "class")
TEST_SHARE = 0.3
_SPLIT_WORDS: dict[str, Part] = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
    "validation": "val",
}  # fmt: skip
EVENT_FILE, EVENT_CLIP = "event.json", "clip.mp4"  # of an event that `vad watch` kept
FALSE_ALARM, TRUE_ALARM = "false-alarm", "true-alarm"  # empty files by which somebody says what an event was
_CONTAINERS = ("videos", "video", "clips", "frames", "data")
_NORMAL = re.compile(r"^(normal|no[-_ ]?[a-z]+|non[-_ ]?[a-z]+|negative|background|regular|usual)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` wrote or found: `added` rows are new, `kept` ones the user's, `gone` ones have no file any more."""

    name: str
    manifest: Path
    videos_csv: Path
    events_csv: Path
    classes: tuple[str, ...]
    added: int
    kept: int
    gone: tuple[str, ...]
    entry_written: bool
    notes: tuple[str, ...]
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """One video or frame folder, relative to the footage folder."""

    path: str
    label: str
    split: str
    group: str = ""


def init(
    folder: Path, *, manifest: Path | None = None, name: str | None = None, normal: str | None = None
) -> Initialised:
    """Write an entry for the videos of `folder` and a csv to fill in; run again, it adds only what is new.

    Class folders (`fight/`, `normal/`) become labels and `train/`, `test/`, `val/` folders splits; otherwise the
    columns are left to fill in, with a draft of the split. Rows and entries that exist are never changed. Of the
    events that `vad watch` kept, those with a file `false-alarm` are normal videos, those with `true-alarm` have the
    event's class, and the others are left out.

    Args:
        folder: footage: video files, or folders of images, at any depth.
        manifest: the file to write the entry to; ./data_manifest.yaml unless given.
        name: the dataset's name; made of the folder's name unless given.
        normal: which class folder is the normal class; guessed unless given.

    Raises:
        MissingArtifactError: no such folder, or no video in it.
        UsageError: a name that is taken by another folder's entry, or a manifest with errors.
    """
    if not folder.is_dir():
        raise MissingArtifactError(f"there is no folder {folder}")
    target = (manifest or Path("data_manifest.yaml")).expanduser().absolute()
    dataset = name or slug(folder.resolve().name)
    found, media, notes = scan(folder)
    if not found:
        raise MissingArtifactError(
            f"no video in {folder}", hint=f"looked for {', '.join(VIDEO_SUFFIXES[:4])}, ... and folders of images"
        )
    home = _home(folder, target, dataset)
    classes = guess_classes([item.label for item in found], normal)
    if any(item.label for item in found) and not normal and classes[0] not in {item.label for item in found}:
        notes = [*notes, "no folder looks like the normal class: say which with --normal NAME, or edit `classes`"]
    written = write_entry(target, dataset, entry_text(dataset, folder, target, home, media, classes))
    kept, added, gone = merge_csv(home / "videos.csv", found, folder)
    if not (home / "events.csv").exists():
        write_text(home / "events.csv", ",".join(EVENTS) + "\n")
    return Initialised(
        dataset, target, home / "videos.csv", home / "events.csv", classes, added, kept, tuple(gone), written,
        tuple(notes), _next(dataset, home, found, target),
    )  # fmt: skip


def slug(text: str) -> str:
    """`text` as a dataset's name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "videos"


def scan(folder: Path) -> tuple[list[_Found], str, list[str]]:
    """(videos or frame folders in natural order, "video" or "frames", notes on what was left out)."""
    notes: list[str] = []
    videos: list[Path] = []
    frames: list[Path] = []
    events: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in files if not name.startswith(".")]
        if EVENT_FILE in shown and EVENT_CLIP in shown:
            events.append(Path(place))
            continue
        videos += [Path(place, name) for name in shown if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        if sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in shown) > 1 and Path(place) != folder:
            frames.append(Path(place))
    if videos and frames:
        notes.append(f"{len(frames)} folders of images were left out; the entry is for the {len(videos)} video files")
    chosen = sorted(videos or frames, key=lambda path: natural_key(path.as_posix()))
    marked = [found for place in sorted(events) if (found := _event(place, folder)) is not None]
    if len(events) > len(marked):
        notes.append(
            f"{len(events) - len(marked)} of {len(events)} events of vad watch are left out: nobody said what they were "
            f"(an empty file {FALSE_ALARM} or {TRUE_ALARM} beside their clip does)"
        )
    media = "video" if videos or events else "frames"
    return [*(_describe(path.relative_to(folder)) for path in chosen), *marked], media, notes


def _event(place: Path, folder: Path) -> _Found | None:
    """A kept event as a video of its camera's group; None where nobody said what it was."""
    path = (place / EVENT_CLIP).relative_to(folder).as_posix()
    try:
        event = json.loads((place / EVENT_FILE).read_text(encoding="utf-8"))
        camera, label = str(event["camera"]), str(event.get("class") or "anomaly")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{place / EVENT_FILE} is not an event of vad watch: {error}") from error
    if (place / FALSE_ALARM).exists():
        return _Found(path, NORMAL, "", camera)
    return _Found(path, label, "", camera) if (place / TRUE_ALARM).exists() else None


def _describe(path: Path) -> _Found:
    words = [part for part in path.parts[:-1] if part.lower() not in _CONTAINERS]
    split = next((_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS), "")
    labels = [word for word in words if word.lower() not in _SPLIT_WORDS]
    return _Found(path.as_posix(), labels[-1] if labels else "", split)


def guess_classes(labels: Sequence[str], normal: str | None) -> tuple[str, ...]:
    """Classes with the normal one first; `normal, anomaly` where folders say nothing."""
    names = sorted({label for label in labels if label}, key=natural_key)
    first = normal or next((label for label in names if _NORMAL.match(label)), "normal")
    others = [label for label in names if label != first]
    return (first, *(others or ["anomaly"]))


def entry_text(name: str, folder: Path, manifest: Path, home: Path, media: str, classes: Sequence[str]) -> str:
    """The entry as YAML, with a comment on each line that a user may want to change."""
    annotations = _written(home, manifest.parent)
    root = _written(folder.absolute(), manifest.parent)
    body: dict[str, Any] = {"title": folder.resolve().name, "kind": "weak", "root": root}
    if annotations != root:
        body["annotations"] = annotations
    if media != "video":
        body["media"] = media
    body["classes"] = list(classes)
    text = yaml.safe_dump({name: body}, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
    text += (
        "  splits:\n    default: {table: videos.csv}  # columns video, path, label, split, group\n"
        "  truths:\n    default:\n"
        "      - {reader: csv, file: events.csv}  # video, start_s, end_s, class of the test videos\n"
        "      - {reader: video-label}  # used until events.csv has a row: the label of the whole video\n"
        "  encoder: effnet:lite0+motion\n  crops: center\n  clip_len: 16\n  stride: 16\n"
    )
    return text


def write_entry(manifest: Path, name: str, text: str) -> bool:
    """Put the entry `text` under `datasets:` of the manifest without touching another line; False when it exists.

    Raises:
        UsageError: the manifest is not one, or would not be one afterwards.
    """
    before = manifest.read_text(encoding="utf-8") if manifest.is_file() else "schema: 1\ndatasets:\n"
    if manifest.is_file():
        data = read_yaml(manifest)
        if name in (data.get("datasets") or {}):
            return False
    after = _inserted(before, text)
    aside = manifest.with_name(f".{manifest.name}.new")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    try:
        aside.write_text(after, encoding="utf-8")
        parse({**read_yaml(aside), "datasets": {name: read_yaml(aside)["datasets"][name]}}, aside)
    except VadError as error:
        raise UsageError(
            f"cannot add {name!r} to {manifest}: {error.message}", hint=f"add it by hand:\n{text}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    write_text(manifest, after)
    return True


def _inserted(before: str, text: str) -> str:
    """`before` with the entry at the end of its `datasets` mapping, at the indentation used there."""
    root = yaml.compose(before, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    found = next(((key, value) for key, value in pairs if key.value == "datasets"), None)
    lines = before.splitlines()
    if found is None:
        return before.rstrip("\n") + "\ndatasets:\n" + _indented(text, 2)
    key, value = found
    if isinstance(value, yaml.ScalarNode) or (isinstance(value, yaml.MappingNode) and not value.value):
        line = key.start_mark.line
        return "\n".join([*lines[:line], "datasets:", _indented(text, 2).rstrip("\n"), *lines[line + 1 :]]) + "\n"
    if not isinstance(value, yaml.MappingNode) or value.flow_style:
        raise UsageError("its `datasets` is not a block of entries, one key a line")
    following = [other.start_mark.line for other, _ in pairs if other.start_mark.line > key.start_mark.line]
    end = min(following, default=len(lines))
    while end > 0 and (
        not lines[end - 1].strip()
        or (following and lines[end - 1].lstrip().startswith("#") and not lines[end - 1].startswith(" "))
    ):
        end -= 1
    indent = value.value[0][0].start_mark.column
    return "\n".join([*lines[:end], "", _indented(text, indent).rstrip("\n"), *lines[end:]]) + "\n"


def _indented(text: str, count: int) -> str:
    return "".join(" " * count + line + "\n" if line.strip() else "\n" for line in text.splitlines())


def merge_csv(path: Path, found: Sequence[_Found], folder: Path) -> tuple[int, int, list[str]]:
    """Append rows of videos that `path` does not name yet; (kept, added, rows whose file is gone).

    Existing lines stay as they are, byte for byte.
    """
    before = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    rows = list(csv.DictReader(before.splitlines(), skipinitialspace=True)) if before.strip() else []
    header = list(rows[0]) if rows else (before.splitlines()[0].split(",") if before.strip() else list(COLUMNS))
    known = {(row.get("path") or row.get("video") or "").strip() for row in rows}
    ids = {(row.get("video") or "").strip() for row in rows}
    new = [item for item in found if item.path not in known]
    gone = [name for name in known if name and not (folder / name).exists()]
    if not new:
        return len(rows), 0, sorted(gone)
    buffer = io.StringIO()
    writer = csv.DictWriter(
        buffer, fieldnames=[name.strip() for name in header], extrasaction="ignore", lineterminator="\n"
    )
    if not before.strip():
        writer.writeheader()
    names = _ids([item.path for item in found], ids)
    drafts = _splits(found)
    for item in new:
        row = {"video": names[item.path], "path": item.path, "label": item.label, "split": drafts[item.path]}
        row["group"] = item.group
        writer.writerow({key: row.get(key, "") for key in writer.fieldnames})
    path.parent.mkdir(parents=True, exist_ok=True)
    joint = "" if not before or before.endswith("\n") else "\n"
    write_text(path, before + joint + buffer.getvalue())
    return len(rows), len(new), sorted(gone)


def _ids(paths: Sequence[str], taken: set[str]) -> dict[str, str]:
    """The stem of each path; where stems repeat, the path written with underscores."""
    stems = {path: split_suffix(path.rsplit("/", 1)[-1])[0] for path in paths}
    counts = Counter(stems.values())
    long = {path: split_suffix(path)[0].replace("/", "_") for path in paths}
    return {path: stem if counts[stem] == 1 and stem not in taken else long[path] for path, stem in stems.items()}


def _splits(found: Sequence[_Found]) -> dict[str, str]:
    """The folder's split, else a draft: of each class the same share to test, chosen by a hash of the path."""
    drafts = {item.path: item.split for item in found if item.split}
    open_: dict[str, list[str]] = {}
    for item in found:
        if not item.split:
            open_.setdefault(item.label, []).append(item.path)
    for paths in open_.values():
        order = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).hexdigest())
        count = round(TEST_SHARE * len(paths)) if len(paths) > 1 else 0
        drafts |= {path: "test" if index < max(count, len(paths) > 1) else "train" for index, path in enumerate(order)}
    return drafts


def _home(folder: Path, manifest: Path, name: str) -> Path:
    """Where the csv files go: the footage folder when it lies below the manifest's folder, else a folder `name` there."""
    inside = folder.resolve().is_relative_to(manifest.parent.resolve())
    return folder.absolute() if inside and os.access(folder, os.W_OK) else manifest.parent / name


def _written(path: Path, base: Path) -> str:
    """`path` relative to `base` where it lies below it, else absolute."""
    resolved, root = path.resolve(), base.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)


def _next(name: str, home: Path, found: Sequence[_Found], manifest: Path) -> tuple[str, ...]:
    option = "" if manifest == Path.cwd() / "data_manifest.yaml" else f" --manifest {manifest}"
    fill = "check" if all(item.label for item in found) else "fill in"
    return (
        f"{fill} the columns label and split of {home / 'videos.csv'} (videos of one camera or source: the same `group`)",
        f"list when the test videos' events happen in {home / 'events.csv'} (or leave it: whole-video labels are used)",
        f"vad data check {name}{option}",
        f"vad extract {name}{option}",
        f"vad train {name} --method mil-rank{option}",
        f"vad eval --metric auc{option}",
    )
