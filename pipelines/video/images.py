"""Frames from a folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.video.probe import Probe
from pipelines.video.readers import Array, Frame, Reader
from pipelines.video.sources import DecodeError, Tick, list_images, plain, quiet


class ImagesReader(Reader):
    """A folder of images in natural order; one size throughout.

    16-bit gray is brought to 8 bit by dropping the low byte; transparency is dropped; EXIF orientation is applied.
    """

    name = "images"

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        import PIL

        super().__init__(path, facts, tick=tick)
        self.version = PIL.__version__
        self._files = list_images(path)

    def _next(self) -> Frame | None:
        if self.decoded >= len(self._files):
            return None
        return _ImageFrame(self._files[self.decoded], (self.height, self.width))

    def close(self) -> None:
        self._files = []


class _ImageFrame:
    __slots__ = ("_pixels",)

    time_s = None

    def __init__(self, file: Path, size: tuple[int, int]) -> None:
        # Decoded here, wanted or not: a broken file must not depend on which frames are wanted.
        self._pixels = _read_image(file)
        if self._pixels.shape[:2] != size:
            got, want = self._pixels.shape, f"{size[1]}x{size[0]}"
            raise DecodeError(f"{file.name} is {got[1]}x{got[0]}, the frames before it are {want}")

    def write(self, out: Array) -> None:
        np.copyto(out, self._pixels)


def _read_image(file: Path) -> Array:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                high = (np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(high[:, :, None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{file.name} is not an image that can be read: {plain(error)}") from error
