"""Arrays and masks: npy, npz, mat and image folders say the same as intervals do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data import masks
from pipelines.errors import VerificationError


def spans(found: masks.Annotations, video: str) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in found.intervals[video]]


@given(st.lists(st.booleans(), max_size=60))
def test_runs_mark_the_array_they_came_from(values: list[bool]) -> None:
    labels = np.zeros(len(values), dtype=bool)
    for start, end in masks.runs(np.array(values, dtype=bool)):
        assert start < end
        labels[start:end] = True
    assert labels.tolist() == values


def test_a_folder_of_npy_and_an_npz_with_a_key_agree(tmp_path: Path) -> None:
    arrays = {"01_0014": np.array([0, 1, 1, 0], np.uint8), "01_0015": np.zeros(3, np.uint8)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "all.npz", **{f"mnad_{name}": array for name, array in arrays.items()}, other=np.ones(2))
    folder = masks.read_frame_masks([tmp_path])
    packed = masks.read_frame_masks([tmp_path / "all.npz"], key="mnad_{id}")
    for found in (folder, packed):
        assert spans(found, "01_0014") == [(1, 3)] and found.intervals["01_0015"] == ()
        assert found.lengths == {"01_0014": 4, "01_0015": 3}


def test_any_non_zero_pixel_makes_a_frame_abnormal(tmp_path: Path) -> None:
    volume = np.zeros((5, 4, 6), dtype=bool)
    volume[2, 3, 5] = True
    np.save(tmp_path / "01.npy", volume)
    assert spans(masks.read_frame_masks([tmp_path / "01.npy"]), "01") == [(2, 3)]


def test_a_flat_file_needs_the_lengths_that_add_up(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.array([[0, 1, 1, 1, 0]]))
    found = masks.read_flat_labels(tmp_path / "flat.npy", {"01": 2, "02": 3})
    assert spans(found, "01") == [(1, 2)] and spans(found, "02") == [(0, 2)]
    with pytest.raises(VerificationError, match="5 labels, but the 1 videos have 4 frames"):
        masks.read_flat_labels(tmp_path / "flat.npy", {"01": 4})


def test_both_schemas_of_avenue_mat_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = np.array([[61], [180]], np.uint8), np.array([[1, 20], [10, 30]], np.uint16)
    scipy_io.savemat(tmp_path / "gt.mat", {"gt": cells})
    found = masks.read_mat([tmp_path / "gt.mat"])
    assert found is not None and spans(found, "01") == [(60, 180)] and spans(found, "02") == [(0, 10), (19, 30)]
    assert masks.read_mat([tmp_path / "gt.mat"], schema="numbered") is None
    # scipy does not write variables whose names begin with a digit; MATLAB structures saved by others have them
    numbered = {"__header__": b"", "02": np.array([[0, 0, 0]]), "01": np.array([[0, 1, 1]])}
    monkeypatch.setattr(masks, "_loadmat", lambda path: numbered)
    found = masks.read_mat([tmp_path / "avenue.mat"], schema="numbered")
    assert found is not None and list(found.intervals) == ["01", "02"] and spans(found, "01") == [(1, 3)]
    assert masks.read_mat([tmp_path / "avenue.mat"], schema="gt") is None


def test_one_interval_that_arrives_flat_is_one_interval(tmp_path: Path) -> None:
    assert [(one.start, one.end) for one in masks._gt_cell(np.array([61, 180]), "x", "one_based")] == [(60, 180)]
    with pytest.raises(VerificationError, match="expected 2xK"):
        masks._gt_cell(np.ones((3, 4)), "x", "one_based")


def test_pixel_mask_files_are_joined_by_number(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for number in (1, 2, 10):
        volume = np.empty((1, 4), dtype=object)
        for frame in range(4):
            volume[0, frame] = np.full((2, 2), int(frame == number % 4), np.uint8)
        scipy_io.savemat(tmp_path / f"{number}_label.mat", {"volLabel": volume})
    found = masks.read_mat(sorted(tmp_path.iterdir()))
    assert found is not None and list(found.intervals) == ["01", "02", "10"]
    assert spans(found, "10") == [(2, 3)] and found.lengths["01"] == 4


def test_mat_files_of_no_known_schema_or_no_mat_files_are_named(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "odd.mat", {"boxes": np.ones(3)})
    with pytest.raises(VerificationError, match=r"odd\.mat: has \['boxes'\]"):
        masks.read_mat([tmp_path / "odd.mat"])
    (tmp_path / "text.mat").write_text("not a mat file at all, only text that goes on for a while" * 4)
    with pytest.raises(VerificationError, match=r"text\.mat: not a MATLAB file"):
        masks.read_mat([tmp_path / "text.mat"])


@pytest.mark.parametrize("first", [0, 1])
def test_mask_images_count_from_zero_whatever_their_names_do(tmp_path: Path, first: int) -> None:
    folder = tmp_path / "Test001_gt"
    folder.mkdir()
    for frame in range(12):
        pixels = np.zeros((4, 4), np.uint8)
        pixels[1, 1] = 255 * (3 <= frame < 11)
        Image.fromarray(pixels).save(folder / f"{frame + first}.bmp")  # unpadded: 10 must not sort before 2
    found = masks.read_mask_images([folder], name=lambda text: text.removesuffix("_gt"))
    assert spans(found, "Test001") == [(3, 11)] and found.lengths["Test001"] == 12


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 broken"])
def test_files_that_are_no_arrays_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "01.npy").write_bytes(content)
    with pytest.raises(VerificationError, match=r"01\.npy"):
        masks.read_frame_masks([tmp_path / "01.npy"])


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "01.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(VerificationError, match="not a plain numpy array"):
        masks.read_frame_masks([tmp_path / "01.npy"])


def test_pixel_masks_of_one_video_from_every_source(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    masks_ = np.zeros((3, 2, 4), dtype=bool)
    masks_[1, 0, 3] = True
    np.savez(tmp_path / "all.npz", **{"01": masks_, "02": np.zeros(3)})
    np.save(tmp_path / "01.npy", masks_)
    (tmp_path / "01_gt").mkdir()
    volume = np.empty((1, 3), dtype=object)
    for frame in range(3):
        Image.fromarray(masks_[frame].astype(np.uint8) * 255).save(tmp_path / "01_gt" / f"{frame}.bmp")
        volume[0, frame] = masks_[frame].astype(np.uint8)
    scipy_io.savemat(tmp_path / "1_label.mat", {"volLabel": volume})
    for name in ("all.npz", "01.npy", "01_gt", "1_label.mat"):
        found = masks.read_pixel_mask([tmp_path / name], "01", name=lambda text: text[:2])
        assert found is not None and found.dtype == bool and np.array_equal(found, masks_), name
    assert masks.read_pixel_mask([tmp_path / "all.npz"], "02") is None, "labels per frame are no masks"
    assert masks.read_pixel_mask([tmp_path / "all.npz"], "03") is None
