"""One artefact in one file: a plain zip, not compressed, with the sha256 of every file in it; verified when unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint
from pipelines.store.listing import FAILURES, GROUPS, Row
from pipelines.store.maintenance import BROKEN, open_store

LIST = "pack.json"
SUFFIX = ".vadpack.zip"
SKIPPED = {".staging", FAILURES, BROKEN}
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Pack:
    """What a pack file says of itself: `files` maps each name to its size and sha256; `folder` is the artefact's name."""

    path: Path
    dataset: str
    folder: str
    artifact: Artifact
    files: dict[str, tuple[int, str]]

    @property
    def videos(self) -> list[str]:
        """Names on disk of the packed videos; none for kinds that are not one array a video."""
        group = GROUPS.get(self.artifact.kind)
        found = {PurePosixPath(name).parts[1] for name in self.files if group and name.startswith(f"{group}/")}
        return sorted(found - {"zarr.json"})

    @property
    def n_bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Where a pack went: names of the videos that it added and of those that were there already."""

    folder: Path
    added: tuple[str, ...]
    kept: tuple[str, ...]


def pack(row: Row, out: Path, *, progress: Progress | None = None) -> Pack:
    """Write the artefact of `row` into the file `out`; written aside and renamed. Failures are not packed.

    Raises:
        UsageError: `out` exists.
    """
    if out.exists():
        raise UsageError(f"{out} exists", hint="give a new name with --out")
    names = sorted(_files(row.folder))
    sink = progress or Silent()
    sink.start(len(names), f"packing {row.folder.name}", unit="files")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    files: dict[str, tuple[int, str]] = {}
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in names:
                with (
                    (row.folder / name).open("rb") as source,
                    archive.open(_entry(name), "w", force_zip64=True) as into,
                ):
                    files[name] = _copy(source, into)
                sink.advance()
            listed = {"schema": 1, "dataset": row.dataset, "folder": row.folder.name, "files": files}
            archive.writestr(_entry(LIST), json.dumps(listed))
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
        sink.finish()
    return Pack(out, row.dataset, row.folder.name, row.artifact, files)


def read_pack(path: Path) -> Pack:
    """What the pack file holds; every name in it is checked, nothing is written.

    Raises:
        MissingArtifactError: no such file.
        VerificationError: no pack, damaged, or names that would be written elsewhere.
    """
    if not path.is_file():
        raise MissingArtifactError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive)
            listed = json.loads(archive.read(LIST))
            artifact = Artifact(**json.loads(archive.read(artifacts.FILE)))
            files = {str(name): (int(size), str(sha)) for name, (size, sha) in listed["files"].items()}
            found = Pack(path, str(listed["dataset"]), str(listed["folder"]), artifact, files)
            inside = {info.filename: info.file_size for info in archive.infolist()}
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError, NotImplementedError) as error:
        raise VerificationError(f"{path} is not a pack of `vad cache pack`, or damaged: {error}") from error
    wrong = sorted(set(files) ^ (set(inside) - {LIST})) or [n for n, (size, _) in files.items() if inside[n] != size]
    if wrong:
        raise VerificationError(f"{path}: {wrong[0]} is not what the pack's own list says")
    _check_folder_names(found)
    return found


def unpack(found: Pack, root: Path, *, progress: Progress | None = None) -> Unpacked:
    """Put a pack into the cache `root`: each video is verified, then renamed into place; what is there already wins.

    Raises:
        VerificationError: a file that is not the packed one; videos before it are in the cache.
    """
    folder = root / found.artifact.kind / found.dataset / found.folder
    if folder.exists() and artifacts.read(folder).id != found.artifact.id:
        raise VerificationError(f"{folder} is another artefact than {found.path}")
    sink = progress or Silent()
    sink.start(len(found.videos) or 1, f"unpacking {found.path.name}")
    with zipfile.ZipFile(found.path) as archive:
        if found.artifact.kind in GROUPS:
            result = _unpack_videos(found, archive, folder, sink)
        else:
            result = _unpack_whole(found, archive, folder)
    sink.finish()
    return result


def _unpack_videos(found: Pack, archive: zipfile.ZipFile, folder: Path, sink: Progress) -> Unpacked:
    group = GROUPS[found.artifact.kind]
    if not folder.exists():
        _unpack_frame(found, archive, folder, group)
    store = open_store(folder)
    added: list[str] = []
    kept: list[str] = []
    for name in found.videos:
        video = artifacts.video_id_of(name)
        if video in store:
            kept.append(name)
        else:
            staged = store.new_staging()
            try:
                _extract(found, archive, f"{group}/{name}/", staged)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
            (added if store.publish(video, staged) else kept).append(name)
        sink.advance()
    return Unpacked(folder, tuple(added), tuple(kept))


def _unpack_frame(found: Pack, archive: zipfile.ZipFile, folder: Path, group: str) -> None:
    """The artefact without its videos."""
    videos = tuple(f"{group}/{name}/" for name in found.videos)
    with _aside(folder) as staged:
        for name in found.files:
            if not name.startswith(videos or ("\0",)):
                _extract_file(found, archive, name, staged / name)
        (staged / group).mkdir(exist_ok=True)
        artifacts.commit(staged, folder)


def _unpack_whole(found: Pack, archive: zipfile.ZipFile, folder: Path) -> Unpacked:
    with _aside(folder) as staged:
        _extract(found, archive, "", staged)
        won = artifacts.commit(staged, folder)
    return Unpacked(folder, (found.folder,) if won else (), () if won else (found.folder,))


class _aside:
    """A staging folder beside `folder`, gone afterwards whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f".unpack-{os.getpid()}-{folder.name}")

    def __enter__(self) -> Path:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


# ---- checks --------------------------------------------------------------------------------------------------------


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """No entry leaves the folder, is a link, comes twice, or is compressed (a small file that unpacks to a large one)."""
    seen: set[str] = set()
    for info in archive.infolist():
        name = info.filename
        parts = name.split("/")
        odd = "\\" in name or "\0" in name or any(part in ("", ".", "..") or ":" in part[:2] for part in parts)
        mode = info.external_attr >> 16
        if odd or name in seen or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise VerificationError(f"{path}: the entry {name!r} is not a plain file below the artefact")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise VerificationError(f"{path}: the entry {name!r} is compressed or encrypted, packs are neither")
        seen.add(name)


def _check_folder_names(found: Pack) -> None:
    names = [found.dataset, found.folder, found.artifact.kind]
    if any(artifacts.folder_name(artifacts.video_id_of(name)) != name or name in (".", "..") for name in names):
        raise VerificationError(f"{found.path}: {'/'.join(names)} is no place in a cache")
    recipe_id = fingerprint(found.artifact.recipe)
    if found.artifact.kind in GROUPS and found.artifact.id != recipe_id:
        raise VerificationError(
            f"{found.path}: its id {found.artifact.id[:8]} is not that of its recipe ({recipe_id[:8]})"
        )


def _extract(found: Pack, archive: zipfile.ZipFile, prefix: str, into: Path) -> None:
    for name in found.files:
        if name.startswith(prefix):
            _extract_file(found, archive, name, into / name.removeprefix(prefix))


def _extract_file(found: Pack, archive: zipfile.ZipFile, name: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(name) as source, to.open("wb") as into:
            got = _copy(source, into)
    except (zipfile.BadZipFile, EOFError) as error:
        raise VerificationError(f"{found.path}: {name} is damaged: {error}") from error
    if got != found.files[name]:
        raise VerificationError(f"{found.path}: {name} is not the file that was packed")


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without a time of its own, so that the same artefact packs into the same bytes."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _copy(source: IO[bytes], into: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := source.read(BLOCK):
        into.write(block)
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def describe(found: Pack) -> dict[str, Any]:
    """A pack as JSON types."""
    return {
        "file": found.path,
        "dataset": found.dataset,
        "kind": found.artifact.kind,
        "id": found.artifact.id,
        "encoder": found.artifact.recipe.get("encoder"),
        "videos": len(found.videos),
        "bytes": found.n_bytes,
    }
