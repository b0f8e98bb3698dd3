"""The typed shape of data_manifest.yaml (schema 1) and its errors: every wrong key and value at once, with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.data.discovery import loader
from pipelines.errors import UsageError
from pipelines.recipe import suggest

SCHEMA = 1
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Rule = Literal["half_open", "inclusive", "one_based"]
ReaderName = Literal[
    "ucf-text", "xd-text", "frame-masks", "flat-labels", "mat", "ucsd-m", "mask-images", "ubnormal-tracks",
    "activitynet", "csv", "video-label",
]  # fmt: skip


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, Mapping)) else value


def _inside(value: str) -> str:
    """A relative path that stays inside its folder."""
    path = PurePosixPath(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", value):
        raise ValueError("the path escapes its root: paths here are relative to the dataset's root or annotations")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


Inside = Annotated[str, BeforeValidator(lambda v: _inside(v) if isinstance(v, str) else v)]
Regex = Annotated[str, BeforeValidator(lambda v: _regex(v) if isinstance(v, str) else v)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Files = Annotated[tuple[Inside, ...], BeforeValidator(_listed)]


class Model(BaseModel):
    """Base: frozen, unknown keys refused; a number is never taken for a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(Model):
    """How a list's row says which classes a video shows.

    `column`: the row's `label` field; `folder`: the class folder of the row's path; `name`: the group `label` of
    `pattern` in the id; `match`: the first class of `match` whose pattern is found in the id, else normal;
    `constant`: `value` for every row. Several classes are joined by `separator`; `0` is an empty slot.
    """

    rule: Literal["column", "folder", "name", "match", "constant"] = "column"
    value: str | None = None
    pattern: Regex | None = None
    match: dict[str, Regex] = {}
    separator: str = "|"
    annotation_wins: bool = False


class Source(Model):
    """Where the videos of a part are named: text lists, csv files, or the footage itself (`media`).

    All `files` are read one after another. `fields` names the columns of a text list ("video", "label", "group",
    "frames", "fps", "path", "split"); without it a line is a path. `columns` renames a csv's headers. `id` is a
    pattern with a group `id`, applied to the normalised name; `prefix` goes before the id; `match` keeps the ids
    that it matches wholly. `inline` is a list inside the manifest: rows separated by white space.
    """

    files: Files = ()
    inline: str = ""
    format: Literal["auto", "lines", "csv", "media"] = "auto"
    fields: Texts = ()
    delimiter: str = ","
    columns: dict[str, str] = {}
    id: Regex | None = None
    prefix: str = ""
    match: Regex | None = None
    label: Annotated[Label | None, BeforeValidator(lambda v: {"rule": v} if isinstance(v, str) else v)] = None
    footage: Files = ()
    media: Literal["video", "frames"] | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Source:
        if not self.files and not self.inline:
            raise ValueError("needs `files` (or `inline`)")
        return self

    @property
    def kind(self) -> Literal["lines", "csv", "media"]:
        """The format, read off the file's name where it is `auto`."""
        if self.format != "auto" or not self.files:
            return "lines" if self.format == "auto" else self.format
        return "csv" if self.files[0].lower().endswith(".csv") else "lines"


def _sources(value: Any) -> Any:
    items = _listed(value)
    return [{"files": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else items


Sources = Annotated[tuple[Source, ...], BeforeValidator(_sources)]


class Split(Model):
    """One named split: per part the alternatives of where its videos are named (the first that exists is read).

    `table` is one csv whose `split` column says the part. `base` starts from another split and `drop` leaves out
    ids (quoted text). `keep` of a file of ids restricts the test part.
    """

    train: Sources = ()
    val: Sources = ()
    test: Sources = ()
    table: Sources = ()
    base: str | None = None
    drop: Texts = ()

    def sources(self, part: str) -> tuple[Source, ...]:
        """The alternatives of one part."""
        own: tuple[Source, ...] = {"train": self.train, "val": self.val, "test": self.test}[part]
        return own or self.table


class Reader(Model):
    """One annotation source: a reader's name, a file or a glob inside the annotations, and how numbers are meant.

    `key` picks arrays of an npz (`mnad_{id}`), or the schema of a mat file (`gt`, `volLabel`, `numbered`); a mat
    file of another schema counts as absent. `unit`, `columns` and `rule` are of the csv reader; `rule` of the others
    too.
    """

    reader: ReaderName
    file: Inside = ""
    rule: Rule = "half_open"
    unit: Literal["auto", "frames", "seconds"] = "auto"
    key: str = ""
    id: Regex | None = None
    columns: dict[str, str] = {}


Readers = Annotated[tuple[Reader, ...], BeforeValidator(_listed)]


class Truth(Model):
    """One named truth: alternatives for the events, and for the frame labels where these come from another file."""

    events: Readers
    labels: Readers = ()
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        short = isinstance(value, list) or (isinstance(value, Mapping) and "reader" in value)
        return {"events": value} if short else value


class Expected(Model):
    """Published counts of a part: videos, abnormal ones, and decoded frames where they are known."""

    videos: int | None = None
    abnormal: int | None = None
    frames: int | None = None


class Group(Model):
    """What ties videos together (same film, same camera walk): a csv's `group` column, or `pattern` on the id.

    `published_overlap` says that the published split itself has groups on two sides: reported, not refused.
    """

    pattern: Regex | None = None
    published_overlap: bool = False


class Entry(Model):
    """One dataset of the manifest.

    `phrases` are the words that stand for a class in a text encoder, where its name is no good prompt
    ("RoadAccidents" -> "road accident"); classes without one are encoded by their names.
    """

    title: str
    kind: Literal["weak", "one-class"] = "weak"
    root: str
    annotations: str | None = None
    ids: Literal["published", "own"] = "own"
    media: Literal["video", "frames"] = "video"
    footage: Files = ("{path}", "videos/{path}", "videos/{id}.mp4")
    label: Annotated[Label, BeforeValidator(lambda v: {"rule": v} if isinstance(v, str) else v)] = Label()
    classes: Texts
    class_titles: dict[str, str] = {}
    class_aliases: dict[str, str] = {}
    phrases: dict[str, str] = {}
    group: Group = Group()
    camera: Regex | None = None
    lengths: Sources = ()
    splits: dict[str, Split] = Field(min_length=1)
    truths: dict[str, Truth] = {}
    expected: dict[str, dict[str, Expected]] = {}
    encoder: str = "effnet:lite0+motion"
    crops: Literal["center", "five", "ten"] = "center"
    clip_len: int = Field(16, ge=1)
    stride: int = Field(16, ge=1)
    licence: str = ""
    link: str = ""
    citation: str = ""
    primary_metrics: Texts = ("auc",)
    notes: Texts = ()

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2 or len(set(value)) != len(value):
            raise ValueError("needs at least two different names, the normal class first")
        return value

    @model_validator(mode="after")
    def _names(self) -> Entry:
        for alias, name in self.class_aliases.items():
            if name not in self.classes:
                raise ValueError(
                    f"class_aliases: {alias!r} means {name!r}, which is no class{suggest(name, self.classes)}"
                )
        for name, words in self.phrases.items():
            if name not in self.classes:
                raise ValueError(f"phrases: {name!r} is no class{suggest(name, self.classes)}")
            if not words.strip():
                raise ValueError(f"phrases: the words of {name!r} are empty")
        for name, split in self.splits.items():
            if split.base is not None and (split.base not in self.splits or self.splits[split.base].base is not None):
                raise ValueError(
                    f"splits: {name!r} is based on {split.base!r}, which is no plain split of this dataset"
                )
        return self


class Document(Model):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    version: Literal[1] = Field(alias="schema")
    cache_dir: str | None = None
    datasets: dict[str, Entry] = {}


def parse(data: Mapping[str, Any], path: Path) -> Document:
    """The validated document.

    Raises:
        UsageError: all wrong keys and values at once, each with its place and line, an unknown key with the nearest.
    """
    try:
        return Document.model_validate(data)
    except ValidationError as error:
        lines = [_explain(item, path) for item in error.errors()]
        raise UsageError(
            f"the manifest {path} has errors:\n  " + "\n  ".join(dict.fromkeys(lines)),
            hint="the packaged data_manifest.yaml shows every key",
        ) from error


def _explain(item: Any, path: Path) -> str:
    loc = [part for part in item["loc"] if part != "__root__"]
    place = ".".join(str(part) for part in loc)
    where = f"{path.name}:{_line(path, loc)}: {place}"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {str(loc[-1])!r}{suggest(str(loc[-1]), _known_keys())}"
    if item["type"] == "missing":
        return f"{where}: the key is missing"
    if item["type"] == "string_type":
        return f"{where} = {item['input']!r}: must be text; quote it (an unquoted 01_0015 is a number to YAML)"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = repr(item["input"])
    return f"{where} = {shown if len(shown) < 80 else shown[:77] + '...'}: {message}"


def _known_keys() -> list[str]:
    models: tuple[type[Model], ...] = (Document, Entry, Split, Source, Label, Reader, Truth, Expected, Group)
    keys = {info.alias or name for model in models for name, info in model.model_fields.items()}
    return sorted(keys)


def _line(path: Path, loc: list[Any]) -> int:
    """The line of the deepest node of `loc` that the file has."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader())
    except (OSError, yaml.YAMLError):
        return 1
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if str(pair[0].value) == str(part)), None)
            if pair is None:
                continue
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
