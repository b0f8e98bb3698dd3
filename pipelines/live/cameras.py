"""Which cameras are watched: one source typed by hand, or a cameras.yaml with every error named at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipelines.data.discovery import expanded, read_yaml, unset
from pipelines.data.ids import VIDEO_SUFFIXES, natural_key
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.live.redact import redact
from pipelines.recipe import Config, suggest

SCHEMES = ("rtsp", "rtsps", "http", "https", "tcp", "udp", "rtmp", "srt")
DEVICES = "/dev/"
ONE = "camera"  # the name of the only camera, unless it is given another
FILE_SUFFIXES = (".yaml", ".yml")


def _in_picture(point: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= value <= 1 for value in point):
        raise ValueError(f"the point {list(point)} lies outside the picture: give fractions of its width and height")
    return point


def _source(text: str) -> str:
    scheme, mark, _ = text.partition("://")
    if mark and scheme.lower() not in SCHEMES:
        raise ValueError(f"{redact(text)!r}: {scheme}:// is not read{suggest(scheme, SCHEMES)}; {', '.join(SCHEMES)}")
    if not text.strip():
        raise ValueError("is empty")
    return text


def _name(text: str) -> str:
    if not text or len(text) > 60 or not all(char.isalnum() or char in "-_." for char in text) or text[0] == ".":
        raise ValueError(f"{text!r} is not a name: letters, digits, '-', '_' and '.', at most 60")
    return text


Point = Annotated[tuple[float, float], AfterValidator(_in_picture)]
Polygon = Annotated[tuple[Point, ...], Field(min_length=3)]


class Camera(Config):
    """One camera.

    `source` is a file that may still grow, a device (/dev/video0) or a URL. `substream` is another URL at which the
    same camera shows its small picture, read in place of the source, or the number of a video stream inside it. `fps`
    is the rate at which frames are looked at; the run's own, or else every frame, unless given. `masks` are polygons
    that are blackened before anything sees the picture: points (x, y) in fractions of width and height. `threshold`
    and `low` win over calibration. `normal` is footage (a file or folder) in which nothing happens.
    """

    name: Annotated[str, AfterValidator(_name)]
    source: Annotated[str, AfterValidator(_source)]
    substream: int | str | None = None
    fps: float | None = Field(None, gt=0, le=120)
    masks: tuple[Polygon, ...] = ()
    threshold: float | None = None
    low: float | None = None
    normal: Path | None = None

    @model_validator(mode="after")
    def _levels(self) -> Camera:
        if isinstance(self.substream, str):
            _source(self.substream)
        if self.low is not None and (self.threshold is None or self.low > self.threshold):
            raise ValueError(f"low = {self.low} needs a threshold at or above it")
        return self

    @property
    def location(self) -> str:
        """What is opened."""
        return self.substream if isinstance(self.substream, str) else self.source

    @property
    def stream(self) -> int:
        """Which of its video streams."""
        return self.substream if isinstance(self.substream, int) else 0

    @property
    def shown(self) -> str:
        """Its location without secrets."""
        return redact(self.location)

    @property
    def is_file(self) -> bool:
        """Whether it is footage on disk, which waits for a slow reader; streams and devices do not."""
        return "://" not in self.location and not self.location.startswith(DEVICES)


def load(path: Path) -> tuple[Camera, ...]:
    """The cameras of a cameras.yaml: `cameras` is a list; `defaults` holds values for all of them.

    Values may hold ${VARIABLES}, so that passwords stay out of the file. Relative paths count from the file's folder.

    Raises:
        MissingArtifactError: no such file.
        UsageError: everything that is wrong with it, one line each.
    """
    if not path.is_file():
        raise MissingArtifactError(f"there is no file {path}", hint="vad watch SOURCE | cameras.yaml")
    data = read_yaml(path)
    listed, errors = data.get("cameras"), [f"unknown key {key!r}" for key in data if key not in KEYS]
    if data.get("schema", 1) != 1:
        errors.append(f"schema {data['schema']!r}: this version reads 1")
    defaults = data.get("defaults") or {}
    if not isinstance(listed, list) or not listed or not isinstance(defaults, dict):
        raise UsageError(f"{path}: `cameras` is a list with one entry a camera, `defaults` a mapping", hint=EXAMPLE)
    cameras: list[Camera] = []
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            errors.append(f"cameras[{number}]: {redact(str(entry))!r} is not a mapping")
            continue
        try:
            cameras.append(Camera.model_validate(_filled({**defaults, **entry}, path.parent)))
        except ValidationError as error:
            errors += _lines(number, entry, error)
    names = Counter(str(entry.get("name")) for entry in listed if isinstance(entry, dict))
    errors += [f"{count} cameras are called {name!r}" for name, count in names.items() if count > 1 and name != "None"]
    if errors:
        raise UsageError(f"{path} has errors:\n  " + "\n  ".join(errors), hint=EXAMPLE)
    return tuple(cameras)


KEYS = ("schema", "defaults", "cameras")
EXAMPLE = "cameras: [{name: door, source: 'rtsp://user:${DOOR_PASSWORD}@10.0.0.7/stream1', fps: 10}]"


def choose(source: str, *, name: str | None = None, **values: Any) -> tuple[Camera, ...]:
    """The cameras that `vad watch SOURCE` means: those of a YAML file, or the one source.

    Raises:
        MissingArtifactError: a file that is not there.
        UsageError: errors in the file, or a source that cannot be one; a name or values beside a file.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if source.endswith(FILE_SUFFIXES):
        if name or given:
            raise UsageError(f"{', '.join(['name'] * bool(name) + list(given))}: each camera's own stand in {source}")
        return load(Path(source))
    try:
        camera = Camera.model_validate({"name": name or ONE, "source": source, **given})
    except ValidationError as error:
        raise UsageError("; ".join(_words(item) for item in error.errors())) from error
    refuse_missing([camera])
    return (camera,)


def refuse_missing(cameras: Sequence[Camera]) -> None:
    """Raise MissingArtifactError that lists every file and device that is not there."""
    gone = [f"{one.name}: {one.location}" for one in cameras if "://" not in one.location and not _is_there(one)]
    if gone:
        raise MissingArtifactError("there is no file or device " + ", ".join(gone), hint="vad watch SOURCE")


def _is_there(camera: Camera) -> bool:
    path = Path(camera.location)
    return path.exists() and not path.is_dir()


def _filled(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`entry` with variables replaced and relative files made absolute; an unset variable is left for the model."""
    filled = {key: _replaced(value) if isinstance(value, str) else value for key, value in entry.items()}
    source = filled.get("source")
    if isinstance(source, str) and source and "://" not in source:
        filled["source"] = str(folder / Path(source).expanduser())
    if isinstance(filled.get("normal"), str):
        filled["normal"] = str(folder / Path(filled["normal"]).expanduser())
    return filled


def _replaced(text: str) -> str:
    lacking = unset(text)
    return f"unset://{lacking}" if lacking else str(expanded(text))


def _lines(number: int, entry: dict[str, Any], error: ValidationError) -> list[str]:
    where = f"cameras[{number}] {entry.get('name', '')!r}"
    return [f"{where}: {_words(item)}" for item in error.errors()]


def _words(item: Any) -> str:
    """One of pydantic's complaints, without secrets and with the variable that is not set."""
    key = ".".join(str(part) for part in item["loc"] if not isinstance(part, str) or part in Camera.model_fields)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        word = str(item["loc"][-1])
        return f"unknown key {word!r}{suggest(word, list(Camera.model_fields))}"
    if "unset://" in message:
        return f"{key}: the variable {message.partition('unset://')[2].partition(chr(39))[0]} is not set"
    return f"{key}: {redact(message)}" if key else redact(message)


def choose_footage(
    source: str, *, camera: str | None, cameras: Path | None, fps: float | None = None
) -> tuple[tuple[Camera, ...], dict[str, list[Path]]]:
    """(cameras, footage of each) that `vad calibrate --source` means.

    A YAML file: its cameras and their `normal` footage. A file or folder: footage of `camera`, which stands in
    `cameras` or is the only one. Else a live source.

    Raises:
        MissingArtifactError: no such file, or no video in it.
        UsageError: errors in the file, or a camera that is not in it.
    """
    if source.endswith(FILE_SUFFIXES):
        listed = load(Path(source))
        return listed, {one.name: videos_of(one.normal) for one in listed if one.normal is not None}
    path = Path(source)
    if cameras is None:
        values = {"name": camera or ONE, "source": source, "fps": fps}
        try:
            chosen = Camera.model_validate(values)
        except ValidationError as error:
            raise UsageError("; ".join(_words(item) for item in error.errors())) from error
    else:
        by_name = {one.name: one for one in load(cameras)}
        name = camera or (next(iter(by_name)) if len(by_name) == 1 else "")
        if name not in by_name:
            raise UsageError(
                f"--camera {name!r} is not in {cameras}{suggest(name, list(by_name))}", hint=", ".join(by_name)
            )
        chosen = by_name[name]
    if not chosen.is_file and "://" in source and cameras is None:
        return (chosen,), {}
    return (chosen,), {chosen.name: videos_of(path)}


def videos_of(path: Path) -> list[Path]:
    """A file itself, or the videos below a folder in natural order.

    Raises:
        MissingArtifactError: nothing there.
    """
    if path.is_file():
        return [path]
    found = [
        file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".")
    ]
    if not found:
        raise MissingArtifactError(f"there is no footage at {path}", hint="vad calibrate --source VIDEO|FOLDER")
    return sorted(found, key=lambda file: natural_key(file.as_posix()))
