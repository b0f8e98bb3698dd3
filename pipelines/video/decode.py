"""One interface to the decoders: what a source is, and its frames in order as uint8 RGB."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.video.decord_reader import DecordReader
from pipelines.video.images import ImagesReader
from pipelines.video.probe import Probe, probe
from pipelines.video.pyav_reader import PyAVReader
from pipelines.video.readers import Frame, Reader, Resampled
from pipelines.video.sources import DecodeError, Tick, quiet, source_fingerprint

__all__ = [
    "DECODER_POLICY",
    "DecodeError",
    "Frame",
    "Probe",
    "Reader",
    "Resampled",
    "open_reader",
    "parse_policy",
    "probe",
    "read_frames",
    "source_fingerprint",
]

DECODER_POLICY = "decord>pyav"
DECODERS: dict[str, Callable[..., Reader]] = {
    "decord": DecordReader,
    "pyav": PyAVReader,
    "images": ImagesReader,
}


def parse_policy(policy: str) -> tuple[str, ...]:
    """`"decord>pyav"` as names in the order they are tried; `module:attribute` names a decoder of one's own.

    Raises:
        UsageError: no decoder, or one that does not exist.
    """
    names = tuple(name.strip() for name in policy.split(">"))
    for name in names:
        if name not in DECODERS and ":" not in name:
            raise UsageError(f"unknown decoder {name!r} in {policy!r}", hint=f"known: {', '.join(DECODERS)}")
    return names


def decoders_for(path: Path, policy: str) -> tuple[str, ...]:
    """The decoders to try for `path`: the policy's, or the image reader for a folder."""
    return ("images",) if os.path.isdir(path) else parse_policy(policy)


def open_reader(path: Path, decoder: str, *, facts: Probe | None = None, tick: Tick = quiet) -> Reader:
    """A reader of `path` by one decoder; a context manager, and an iterator of frames.

    Raises:
        MissingArtifactError: no such file.
        DecodeError: this decoder cannot or will not open it.
        UsageError: no such decoder.
    """
    (name,) = parse_policy(decoder)
    found = DECODERS.get(name) or _plugin(name)
    return found(path, facts or probe(path, tick=tick), tick=tick)


def read_frames(path: Path, *, policy: str = DECODER_POLICY) -> NDArray[np.uint8]:
    """All frames of a short video, uint8 (N, H, W, 3), decoded here and now in the calling process.

    For tests and pictures: a damaged file can hang or crash the process, which the decode pool guards against.

    Raises:
        MissingArtifactError, DecodeError: no decoder of the policy can read it.
    """
    facts = probe(path)
    names = decoders_for(path, policy)
    for name in names[:-1]:
        try:
            return _read_all(path, name, facts)
        except DecodeError:
            continue
    return _read_all(path, names[-1], facts)


def _read_all(path: Path, decoder: str, facts: Probe) -> NDArray[np.uint8]:
    with open_reader(path, decoder, facts=facts) as reader:
        frames = []
        for frame in reader:
            frames.append(np.empty((reader.height, reader.width, 3), np.uint8))
            frame.write(frames[-1])
    if not frames:
        raise DecodeError(f"no frame of {path.name} can be decoded (0 of {facts.expected_frames})")
    return np.stack(frames)


def _plugin(name: str) -> Callable[..., Reader]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Reader] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the decoder {name!r} cannot be imported: {error}") from error
    return found
