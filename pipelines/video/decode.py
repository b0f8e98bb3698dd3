"""One interface to the decoders: what a file is, and its frames in order as uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VadError

DECODER_POLICY = "decord>pyav"


class DecodeError(VadError):
    """A video that cannot be decoded, in plain words."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the container says of a video, without decoding it.

    `fps` is None where unknown (folders of images); `width`, `height` are after rotation; `expected_frames` counts the
    demuxed packets that are shown (edit lists considered); `header_frames` is the header's own claim, or None;
    `rotation` is clockwise in degrees (0, 90, 180, 270); `codec` is FFmpeg's name, or "images".
    """

    fps: float | None
    width: int
    height: int
    duration_s: float | None
    expected_frames: int
    rotation: int
    codec: str
    header_frames: int | None = None


def probe(path: Path) -> Probe:
    """What `path` (a video file or a folder of images) holds; reads every packet and decodes none.

    Raises:
        MissingArtifactError: there is no such file.
        DecodeError: it is empty, no video, or has no video stream.
    """
    raise DecodeError("not available yet")


def source_fingerprint(path: Path) -> str:
    """Size and sha256 of the first, middle and last MiB as `<bytes>-<64 hex>`.

    For a folder: names and sizes of its files, and the same of its first, middle and last file.
    """
    raise DecodeError("not available yet")
