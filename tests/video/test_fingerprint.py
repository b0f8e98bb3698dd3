"""The source fingerprint: equal for equal bytes, different for every replacement that matters."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MissingArtifactError
from pipelines.video.decode import DecodeError, source_fingerprint
from tests import media

MIB = 1 << 20


def test_a_small_file_is_hashed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    digest = hashlib.sha256((3).to_bytes(8, "little") + b"abc").hexdigest()
    assert source_fingerprint(path) == f"3-{digest}"
    other = tmp_path / "renamed.mp4"
    other.write_bytes(b"abc")
    assert source_fingerprint(other) == source_fingerprint(path)


@pytest.mark.parametrize(("at", "changes"), [(0, True), (5 * MIB, True), (10 * MIB - 1, True), (2 * MIB, False)])
def test_a_large_file_is_known_by_its_first_middle_and_last_mib(tmp_path: Path, at: int, changes: bool) -> None:
    data = bytearray(np.random.default_rng(0).bytes(10 * MIB))
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    before = source_fingerprint(path)
    data[at] ^= 255
    path.write_bytes(data)
    assert (source_fingerprint(path) != before) is changes
    path.write_bytes(data + b"x")
    assert source_fingerprint(path) != before


def test_a_folder_is_known_by_names_sizes_and_three_images(tmp_path: Path) -> None:
    folder = media.image_folder(tmp_path / "v", range(9))
    before = source_fingerprint(folder)
    (folder / "readme.txt").write_text("not a frame")
    assert source_fingerprint(folder) == before
    (folder / "8.png").rename(folder / "9.png")
    with pytest.raises(DecodeError, match="missing between"):
        source_fingerprint(folder)
    (folder / "9.png").unlink()
    assert source_fingerprint(folder) != before


def test_missing_and_empty_files_have_none(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError):
        source_fingerprint(tmp_path / "nothing.mp4")
    with pytest.raises(DecodeError, match="empty"):
        source_fingerprint(media.zero_bytes(tmp_path / "empty.mp4"))
