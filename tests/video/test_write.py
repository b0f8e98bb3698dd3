"""The writer: what it writes decodes, and nothing half-written stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.video.decode import probe, read_frames
from pipelines.video.write import first_codec, write_video
from tests import media


@pytest.mark.parametrize("codecs", [("libx264", "mpeg4"), ("mpeg4",), ("no-such-encoder", "mpeg4")])
@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
def test_every_frame_comes_back_in_order(tmp_path: Path, codecs: tuple[str, ...], size: tuple[int, int]) -> None:
    path = tmp_path / "clip.mp4"
    written = write_video(path, media.coded_frames(40, height=size[0], width=size[1]), fps=12.5, codecs=codecs)
    frames = read_frames(path)
    assert (written.n_frames, written.codec) == (40, next(c for c in codecs if c != "no-such-encoder"))
    assert frames.shape == (40, *size, 3)
    assert media.numbers_of(frames) == list(range(40))
    assert probe(path).fps == 12.5
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_colours_survive(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    write_video(tmp_path / "red.mp4", [red] * 3, fps=10)
    mean = read_frames(tmp_path / "red.mp4").mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, [200, 0, 0], atol=6)


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")

    def broken() -> object:
        yield media.coded_frame(0)
        yield media.coded_frame(1, width=96)

    with pytest.raises(UsageError, match="frame 1 is uint8"):
        write_video(path, broken(), fps=10)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_no_frames_and_no_encoder_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one frame"):
        write_video(tmp_path / "none.mp4", [], fps=10)
    with pytest.raises(UsageError, match="no-such-encoder"):
        first_codec(["no-such-encoder"])
    assert not list(tmp_path.iterdir())
