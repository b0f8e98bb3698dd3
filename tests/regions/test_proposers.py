"""Proposers: what moves, a grid, and a detector file that is one or is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.regions.choose import propose, proposers
from pipelines.regions.yolox import CLASSES, decode, letterbox

WEIGHTS = Path(os.environ.get("VAD_TEST_DATA", "/nowhere")).parent / "weights" / "yolox_nano.onnx"
real = pytest.mark.real


def moving(count: int = 3, size=(60, 80)) -> np.ndarray:
    frames = np.full((count, *size, 3), 50, np.uint8)
    for index in range(count):
        frames[index, 20:40, 10 + 12 * index : 30 + 12 * index] = 220
    return frames


def found(text: str, frames: np.ndarray, **options):
    return propose(proposers(text, weights=None, options=options), frames, first=0, frames=range(len(frames)))


def test_motion_is_boxed_in_every_frame_the_first_included():
    boxes = found("motion", moving())
    assert set(boxes.frame) == {0, 1, 2}
    second = boxes.of(1)  # the square leaves columns 10..22 and enters 30..42
    assert second.box[:, 1].min() == pytest.approx(19, abs=2) and second.box[:, 3].max() == pytest.approx(41, abs=2)
    assert second.box[:, 0].min() == pytest.approx(9, abs=2) and second.box[:, 2].max() == pytest.approx(43, abs=2)
    assert (second.label == -1).all() and (second.score > 0.2).all()


def test_nothing_moves_nothing_is_proposed():
    still = np.repeat(moving(1), 4, axis=0)
    assert len(found("motion", still)) == 0 and len(found("motion", still[:1])) == 0


def test_what_was_detected_before_is_erased():
    frames = moving()
    motion = proposers("motion", weights=None, options={})[0]
    window, taken = frames, np.array([[8, 18, 60, 42]], np.float32)
    assert len(motion.frame(window, 1, taken)[0]) == 0
    assert len(motion.frame(window, 1, taken[:0])[0]) > 0


def test_the_grid_covers_the_frame_exactly():
    cells = found("grid", moving(1), rows=2, columns=4)
    assert len(cells) == 8
    areas = (cells.box[:, 2:] - cells.box[:, :2]).prod(axis=1)
    assert areas.sum() == 60 * 80 and (areas == 600).all()


def test_proposers_join_in_order():
    both = found("motion+grid", moving(), grid={"rows": 1, "columns": 2})
    assert (both.of(1).score == 1).sum() == 2 and len(both.of(1)) > 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("yolo-nano", {}, "did you mean 'yolox-nano'"),
        ("", {}, "no proposer"),
        ("motion", {"threshhold": 3}, "did you mean 'threshold'"),
        ("motion+grid", {"yolox": {}}, "none of the proposers"),
        ("yolox-nano", {}, "needs its network"),
    ],
)
def test_wrong_names_and_settings_say_what_is_known(text, options, message):
    with pytest.raises(UsageError, match=message):
        proposers(text, weights=None, options=options)


def test_a_detector_file_that_is_not_one(tmp_path):
    with pytest.raises(MissingArtifactError, match="no detector at"):
        proposers("yolox-nano", weights=tmp_path / "none.onnx", options={})
    for name, content in (
        ("empty.onnx", b""),
        ("text.onnx", b"not a network\n" * 10),
        ("image.onnx", bytes(range(256))),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VerificationError, match=f"{name} is no ONNX network|{name} is not a YOLOX"):
            proposers("yolox-nano", weights=tmp_path / name, options={})


def test_decoding_by_hand():
    # cell (3, 2) of stride 8: centre (3.5, 2.25) * 8, sides e^0.5 * 8; score .8 * .5
    output = np.full((2, 85), 0.01, np.float32)
    output[0, :5], output[0, 5 + 7] = [0.5, 0.25, 0.5, 0.5, 0.8], 0.5
    boxes, scores, labels = decode(output, np.array([[3, 2, 8], [4, 2, 8]], np.float32), min_score=0.3)
    side = np.exp(0.5) * 8
    np.testing.assert_allclose(boxes, [[28 - side / 2, 18 - side / 2, 28 + side / 2, 18 + side / 2]], rtol=1e-6)
    assert scores == pytest.approx(0.4) and CLASSES[labels[0]] == "truck"


def test_the_letterbox_is_bgr_at_the_top_left():
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[..., 0] = 200  # red
    image, ratio = letterbox(frame, 416)
    assert ratio == pytest.approx(2.08) and image.shape == (1, 3, 416, 416)
    assert image[0, :, 0, 0].tolist() == [0, 0, 200] and image[0, :, 415, 415].tolist() == [114, 114, 114]
    assert image[0, 2, 207, 415] == 200 and image[0, 2, 208, 0] == 114


@real
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the shared detector")
def test_the_real_detector_finds_pedestrians():
    from PIL import Image

    root = Path(os.environ["VAD_TEST_DATA"]) / "ped2" / "training" / "frames" / "01"
    frame = np.asarray(Image.open(sorted(root.iterdir())[0]).convert("RGB"))
    (detector,) = proposers("yolox-nano", weights=WEIGHTS, options={})
    boxes, scores, labels = detector.frame(frame[None], 0, np.zeros((0, 4), np.float32))
    assert len(boxes) >= 4 and (scores >= 0.3).all() and (labels == 0).mean() > 0.8
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides[:, 1] > sides[:, 0]).mean() > 0.8  # people stand
    assert (boxes[:, [0, 1]] >= 0).all() and (boxes[:, 2] <= 360).all() and (boxes[:, 3] <= 240).all()
