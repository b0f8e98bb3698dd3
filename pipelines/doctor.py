"""Checks of an installation and of a cache's file system; each answers ok, note, warn or fail with a detail and a hint."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import platform
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines import artifacts
from pipelines.errors import VadError
from pipelines.progress import Progress, Silent

Status = Literal["ok", "note", "warn", "fail"]
DEFAULT_ENCODER = "effnet:lite0"
PACKAGES = ("torch", "numpy", "zarr", "decord2", "av", "transformers", "scikit-learn", "typer", "pydantic")
PROBE_FRAMES = 24
LOW_BYTES = 5 * 2**30
LOW_INODES = 100_000  # a features array is six of them, a large benchmark has about 5,000 videos


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which group and what, its status, one line of detail, and what to do about it."""

    group: str
    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """`cache_dir` adds the probe of that folder's file system; `manifest_cache_dir` is the manifest's own value."""

    cache_dir: Path | None = None
    runs_dir: Path | None = None
    manifest_cache_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was checked, in order."""

    checks: tuple[Check, ...] = field(default_factory=tuple)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == "fail")


def run(request: Request, *, progress: Progress = Silent()) -> Report:
    """All checks; a check that raises is a failed one, the others go on."""
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("versions", versions),
        ("packages", packages),
        ("devices", devices),
        ("decoders", decoders),
        ("weights", weights),
        ("space", lambda: space(request)),
    ]
    if request.cache_dir is not None:
        folder = request.cache_dir
        groups.append(("file system", lambda: file_system(folder)))
    found: list[Check] = []
    progress.start(len(groups), "checking", "groups")
    for name, checks in groups:
        found += _guarded(name, checks)
        progress.advance()
    progress.finish()
    return Report(tuple(found))


def versions() -> Iterator[Check]:
    """Python and the libraries that matter, from their metadata."""
    enough = sys.version_info >= (3, 11)
    yield Check("versions", "python", "ok" if enough else "fail", platform.python_version(), "" if enough else "3.11+")
    yield Check("versions", "platform", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for package in ("vadcli", *PACKAGES):
        try:
            yield Check("versions", package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check("versions", package, "fail", "not installed", "pip install -c constraints.txt -e '.[demo]'")


def packages() -> Iterator[Check]:
    """Where the two packages come from, and whether another distribution's `pipelines` could be taken for ours."""
    paths = {name: _folder_of(name) for name in ("vadcli", "pipelines")}
    for name, path in paths.items():
        yield Check("packages", name, "ok" if path else "fail", str(path or "not importable"))
    ours, cli = paths["pipelines"], paths["vadcli"]
    if ours and cli and ours.parent != cli.parent:
        yield Check("packages", "shadowing", "fail", f"pipelines comes from {ours}, vadcli from {cli}", _SHADOW_HINT)
        return
    others = [path for path in _other_pipelines(ours) if (path / "__init__.py").is_file()]
    if others:
        listed = ", ".join(map(str, others))
        yield Check("packages", "shadowing", "warn", f"another `pipelines` is on the path: {listed}", _SHADOW_HINT)
    else:
        yield Check("packages", "shadowing", "ok", "no other `pipelines` on the path")


def devices() -> Iterator[Check]:
    """The processors torch can use, each tried with one small product."""
    import torch

    yield Check("devices", "cpu", _tried("cpu"), f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            detail = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
            yield Check("devices", f"cuda:{index}", _tried(f"cuda:{index}"), detail)
    elif torch.backends.mps.is_available():
        yield Check("devices", "mps", _tried("mps"), "Apple GPU")
    else:
        yield Check("devices", "gpu", "ok", "none that this torch can use; everything runs on the CPU")


def decoders() -> Iterator[Check]:
    """Write a tiny video, decode it with each decoder, and compare what comes out with what went in."""
    with tempfile.TemporaryDirectory(prefix="vad-doctor-") as folder:
        path = Path(folder) / "tiny.mp4"
        expected = _write_tiny(path)
        yield Check("decoders", "write mp4", "ok", f"{PROBE_FRAMES} frames, {path.stat().st_size} bytes")
        for name, read in (("decord", _read_decord), ("pyav", _read_pyav)):
            try:
                got = read(path)
            except Exception as error:  # noqa: BLE001  decoders raise types of their own
                yield Check("decoders", name, "fail", f"{type(error).__name__}: {error}", "reinstall decord2 and av")
                continue
            same = len(got) == len(expected) and float(np.abs(got - expected).max()) < 6
            detail = f"{len(got)} of {PROBE_FRAMES} frames, {'right' if same else 'wrong'} pixels"
            yield Check("decoders", name, "ok" if same else "fail", detail, "" if same else "reinstall decord2 and av")


def weights() -> Iterator[Check]:
    """Whether each encoder's weights are here; the default encoder's must be, the others are fetched on first use."""
    from pipelines import catalog
    from pipelines.encoders import _weights

    for name in catalog.names("encoders"):
        module = catalog.load("encoders", name)
        card = module.build(name.partition(":")[2], module.Config()).weights
        if card is None:
            yield Check("weights", name, "ok", "needs none")
            continue
        path = _weights.locate(card)
        if path is None and name == DEFAULT_ENCODER:
            yield Check("weights", name, "fail", "not here", _weights.hint(card, name))
        elif path is None:
            yield Check("weights", name, "note", f"not here; on first use, or: {_weights.fetch_command(card, name)}")
        else:
            _weights.checked(path, card, name)
            yield Check("weights", name, "ok", str(path))


def space(request: Request) -> Iterator[Check]:
    """Free bytes where features and runs go, and whether they can be written."""
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=request.manifest_cache_dir
    )
    for name, path in (("features", roots.cache), ("runs", roots.runs)):
        there = _nearest(path)
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        status: Status = "fail" if not writable else "warn" if free < LOW_BYTES else "ok"
        detail = f"{path}: {free / 2**30:.0f} GiB free" + ("" if writable else ", not writable")
        yield Check("space", name, status, detail, "--cache-dir or --runs-dir elsewhere" if status != "ok" else "")
    for layer in roots.features[1:]:
        yield Check("space", "read-only layer", "ok" if layer.is_dir() else "warn", str(layer))


def file_system(folder: Path) -> Iterator[Check]:
    """What the cache's commit rule rests on, tried in a folder of its own below `folder`, which is removed again."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".vad-probe-{uuid.uuid4().hex[:8]}"
    probe.mkdir()
    try:
        for name, test, hint in _PROBES:
            try:
                status, detail = test(probe)
            except OSError as error:
                status, detail = "fail", f"{type(error).__name__}: {error}"
            yield Check("file system", name, status, detail, hint if status != "ok" else "")
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _rename(probe: Path) -> tuple[Status, str]:
    for name in ("first", "second"):
        (probe / name).mkdir()
        (probe / name / "value").write_text(name)
    try:
        os.rename(probe / "second", probe / "first")
    except OSError as error:
        kept = (probe / "first" / "value").read_text() == "first"
        return ("ok", f"refused ({error.strerror}), the first stays") if kept else ("fail", "the first was damaged")
    return "fail", "a second writer replaces a finished folder"


def _replace(probe: Path) -> tuple[Status, str]:
    artifacts.write_text(probe / "file", "one")
    artifacts.write_text(probe / "file", "two")
    return ("ok", "a file is replaced whole") if (probe / "file").read_text() == "two" else ("fail", "it is not")


def _fsync(probe: Path) -> tuple[Status, str]:
    (probe / "flushed").write_text("x")
    for path in (probe / "flushed", probe):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return "ok", "files and folders"


def _lock(probe: Path) -> tuple[Status, str]:
    import fcntl

    with (probe / "locked").open("w") as first, (probe / "locked").open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "ok", "a second holder is refused (on this machine; other nodes were not asked)"
    return "fail", "two processes hold one lock"


def _setgid(probe: Path) -> tuple[Status, str]:
    shared = probe / "setgid"
    shared.mkdir()
    shared.chmod(0o2775)
    (shared / "inside").mkdir()
    inherits = bool((shared / "inside").stat().st_mode & stat.S_ISGID)
    own = (
        "" if probe.parent.stat().st_mode & stat.S_ISGID else "; the cache folder itself has no setgid bit (chmod g+s)"
    )
    if not inherits:
        return "warn", "new folders do not inherit a folder's group"
    return "ok", f"new folders inherit a folder's group{own}"


def _memory_map(probe: Path) -> tuple[Status, str]:
    path = probe / "mapped"
    path.write_bytes(bytes(range(256)) * 64)
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        right = mapped[300] == 300 % 256
    return ("ok", "reads back what was written") if right else ("fail", "reads back something else")


def _group_write(probe: Path) -> tuple[Status, str]:
    shared = probe / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    kept = bool(stat.S_IMODE(shared.stat().st_mode) & stat.S_IWGRP)
    mask = _umask()
    if not kept:
        return "warn", "the group-write bit is not kept"
    closed = mask & 0o020
    return "ok", f"kept; umask {mask:03o} {'keeps a group out (umask 002 lets it in)' if closed else 'lets a group in'}"


def _names(probe: Path) -> tuple[Status, str]:
    longest, ids = "v" * 240, ("Case", "case", "a=b #1.x", "ünï")
    for name in (longest, *ids):
        (probe / name).mkdir(exist_ok=True)
    there = set(os.listdir(probe))
    lost = [name for name in ids if name not in there]
    return ("warn", f"names are changed or merged: {', '.join(lost)}") if lost else ("ok", "long, spaced, both cases")


def _inodes(probe: Path) -> tuple[Status, str]:
    facts = os.statvfs(probe)
    if facts.f_files == 0:
        return "ok", "not limited on this file system"
    return ("ok" if facts.f_favail >= LOW_INODES else "warn"), f"{facts.f_favail:,} free; six a video"


_SHADOW_HINT = "install into a clean virtual environment: `pipelines` is a general name that other packages use too"
_PROBES: tuple[tuple[str, Callable[[Path], tuple[Status, str]], str], ...] = (
    ("rename onto a full folder", _rename, "use another file system: two writers would damage each other here"),
    ("replace a file", _replace, "use another file system"),
    ("fsync", _fsync, "a crash of the machine may lose what was just finished"),
    (
        "locks",
        _lock,
        "runs trained by several tasks need them: --runs-dir on a file system with flock (Lustre: -o flock)",
    ),
    ("memory map", _memory_map, "training reads features by memory mapping: put the cache on a local disk"),
    ("group write", _group_write, "a group cannot share this cache for writing; read-only layers still work"),
    ("setgid", _setgid, "a group's cache needs newgrp or a default ACL instead"),
    ("names", _names, "video ids that differ in case or accents only would collide"),
    ("inodes", _inodes, "ask for a larger quota of files, or `vad cache pack`"),
)


def _guarded(group: str, checks: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        for check in checks():
            found.append(check)
    except VadError as error:
        found.append(Check(group, "check", "fail", error.message, error.hint))
    except (ImportError, OSError, RuntimeError) as error:
        found.append(Check(group, "check", "fail", f"{type(error).__name__}: {error}"))
    return found


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _other_pipelines(ours: Path | None) -> list[Path]:
    found = {Path(entry or ".").absolute() / "pipelines" for entry in sys.path}
    return sorted(path for path in found if ours is None or path.resolve() != ours.resolve())


def _tried(device: str) -> Status:
    import torch

    ones = torch.ones(8, 8, device=device)
    return "ok" if float((ones @ ones).sum()) == 512.0 else "fail"


def _write_tiny(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A video whose frames are flat greys; returns their values, (PROBE_FRAMES,)."""
    import av

    values = np.linspace(40, 210, PROBE_FRAMES).round()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in values:
            flat = np.full((48, 64, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(flat, format="rgb24")))
        container.mux(stream.encode(None))
    return values


def _read_decord(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return np.array([reader[index].asnumpy().mean() for index in range(len(reader))])


def _read_pyav(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import av

    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)])


def _nearest(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
