"""Every spelling of a video's name in published files is one id; a user's ids stay as written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.annotations import normalise_id
from pipelines.data.ids import natural_key, own_id

UCF = "Abuse028_x264"
XD = "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Abuse028_x264", UCF),
        ("Abuse028_x264.mp4", UCF),
        ("  Abuse028_x264.mp4\r\n", UCF),
        ("Abuse/Abuse028_x264.mp4", UCF),
        ("/home/author/UCFClipFeatures/Abuse/Abuse028_x264__5.npy", UCF),
        ("Abuse028_x264__5", UCF),
        ("G:\\UCF_Test_ten_crop_i3d\\Abuse028_x264_i3d.npy\r", UCF),
        ("Testing_Normal_Videos_Anomaly/Normal_Videos_872_x264.mp4", "Normal_Videos_872_x264"),
        ("Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4", "Normal_Videos001_x264"),
        (XD, XD),
        (f"{XD}.mp4", XD),
        (f"/media/author/i3d-features/RGBTest/{XD}__0.npy", XD),
        (f"vggish-features/test/{XD}__vggish.npy", XD),
        ("v=U6MC8JJJZSY__#1_label_G-0-0.mp4", "v=U6MC8JJJZSY__#1_label_G-0-0"),
        ("test/01_0015_0.npy", "01_0015"),
        ("/home/author/SH_Test_ten_crop_i3d/01_0015_i3d.npy", "01_0015"),
        ("01_001", "01_001"),
        ("01_001.avi", "01_001"),
        ("testing/frames/01_0014/", "01_0014"),
    ],
)
def test_published_spellings_are_one_id(text: str, wanted: str) -> None:
    assert normalise_id(text) == wanted
    assert normalise_id(wanted) == wanted


@pytest.mark.parametrize("text", ["cam__1", "a=b#c", "01", "front door 12.30", "0007", "x.y.z"])
def test_own_ids_are_kept_as_written(text: str) -> None:
    assert own_id(text) == text
    assert own_id(f"folder/{text}.MP4") == text


def test_numbers_sort_as_numbers() -> None:
    assert sorted(["10_label", "2_label", "1_label"], key=natural_key) == ["1_label", "2_label", "10_label"]


@given(st.text(alphabet="abcXYZ0123456789_-=#. ", min_size=1).filter(lambda text: text.strip() == text and text != "."))
def test_own_ids_survive_a_suffix_and_a_folder(text: str) -> None:
    once = own_id(text)
    assert own_id(f"some/folder/{once}.avi") == once
