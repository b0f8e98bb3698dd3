"""Readers and probe: the right frames or an error in plain words, whatever the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.video.decode import DecodeError, Resampled, open_reader, parse_policy, probe, read_frames
from tests import media

KINDS = {
    "h264.mp4": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"qscale": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "20", "b": "0"}},
    "one.mp4": {"count": 1},
    "full-range.mp4": {"pix_fmt": "yuvj420p"},
    "444-odd.mp4": {"pix_fmt": "yuv444p", "width": 63, "height": 49},
    "422.mp4": {"pix_fmt": "yuv422p"},
    "b-frames.mp4": {"options": {"bf": "3", "g": "12", "crf": "18"}},
}
PYAV_ONLY = {
    "odd.avi": {"codec": "mpeg4", "width": 63, "height": 49, "options": {"qscale": "2"}},
    "10-bit.mp4": {"pix_fmt": "yuv420p10le"},
    "gray.avi": {"codec": "ffv1", "pix_fmt": "gray", "options": {}},
    "rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0", "options": {}},
    "stream.ts": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_decord_and_pyav_give_the_same_pixels_of_every_frame(tmp_path: Path, name: str) -> None:
    path = media.write_coded(tmp_path / name, **{"count": 30, **KINDS[name]})
    by_decord, by_pyav = read_frames(path, policy="decord"), read_frames(path, policy="pyav")
    assert media.numbers_of(by_pyav) == list(range(len(by_pyav)))
    np.testing.assert_array_equal(by_decord, by_pyav)


@pytest.mark.parametrize("name", PYAV_ONLY)
def test_what_decord_would_convert_differently_goes_to_pyav(tmp_path: Path, name: str) -> None:
    path = media.write_coded(tmp_path / name, 30, **PYAV_ONLY[name])
    with pytest.raises(DecodeError):
        read_frames(path, policy="decord")
    frames = read_frames(path)
    assert media.numbers_of(frames) == list(range(30))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    path = media.write_coded(tmp_path / "turned.mp4", 6, rotation=rotation)
    upright = read_frames(media.write_coded(tmp_path / "upright.mp4", 6))
    facts, frames = probe(path), read_frames(path)
    # The display matrix turns counter-clockwise, and so does np.rot90.
    np.testing.assert_array_equal(frames, np.rot90(upright, rotation // 90, axes=(1, 2)))
    assert (facts.height, facts.width) == frames.shape[1:3]
    assert facts.rotation == rotation


def test_a_change_of_resolution_is_scaled_to_the_first_and_noted(tmp_path: Path) -> None:
    path = media.changing_size(tmp_path / "changes.ts", count=24)
    with open_reader(path, "pyav") as reader:
        frames = np.zeros((24, reader.height, reader.width, 3), np.uint8)
        for index, frame in enumerate(reader):
            frame.write(frames[index])
    assert frames.shape == (24, 64, 96, 3)
    assert media.numbers_of(frames) == list(range(24))
    assert reader.notes == ["the resolution changes to 64x48 at frame 12; scaled to the first, 96x64"]


def test_variable_frame_rate_keeps_every_frame_and_its_time(tmp_path: Path) -> None:
    path = media.variable_rate(tmp_path / "vfr.mp4", count=40)
    expected = [media.variable_pts(k) / 12 for k in range(40)]
    for decoder in ("decord", "pyav"):
        with open_reader(path, decoder) as reader:
            times = [frame.time_s for frame in reader]
        np.testing.assert_allclose(times, expected, atol=1e-3, err_msg=decoder)


@pytest.mark.parametrize("skip", [12, 17])  # at a key frame and between two
def test_an_edit_list_hides_frames_from_both_decoders(tmp_path: Path, skip: int) -> None:
    path = media.edit_list(tmp_path / "edited.mp4", count=60, skip=skip, shown=30)
    facts = probe(path)
    frames = read_frames(path)
    assert facts.expected_frames == len(frames) == 30
    assert facts.header_frames == 60
    assert facts.notes
    assert media.numbers_of(frames) == list(range(skip, skip + 30))


def test_a_header_that_claims_more_is_noted_and_all_frames_come(tmp_path: Path) -> None:
    path = media.header_lies(tmp_path / "lies.avi", count=68, claimed=444)
    facts = probe(path)
    assert (facts.expected_frames, facts.header_frames) == (68, 444)
    assert facts.notes == ("the header counts 444 frames, 68 are shown",)
    assert media.numbers_of(read_frames(path)) == list(range(68))


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4")])
def test_a_cut_file_expects_what_it_had_before(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    faststart = {"movflags": "faststart"} if suffix == "mp4" else {}
    media.write_coded(path, 120, codec=codec, options={}, container_options=faststart)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    facts = probe(path)
    assert facts.expected_frames == 120
    assert "is cut off" in facts.notes[0]
    assert 0 < len(read_frames(path, policy="pyav")) < 110


def test_pyav_goes_on_behind_a_damaged_middle(tmp_path: Path) -> None:
    path = media.corrupt_middle(tmp_path / "damaged.mp4", count=240)
    with open_reader(path, "pyav") as reader:
        seen = sum(1 for _ in reader)
    assert reader.facts.expected_frames == 240
    assert 120 < seen < 236
    assert "damaged packets were skipped" in " ".join(reader.notes)
    assert media.number_of(read_frames(path, policy="pyav")[-1]) == 239


def test_decord_never_makes_up_frames_for_damaged_ones(tmp_path: Path) -> None:
    path = media.corrupt_middle(tmp_path / "damaged.mp4", count=240)
    with pytest.raises(DecodeError, match="decord"):
        read_frames(path, policy="decord")


BAD = {
    "empty.mp4": (media.zero_bytes, r"empty \(0 bytes\)"),
    "text.mp4": (media.text_file, "not a video that can be read"),
    "audio.mp4": (media.audio_only, "no video stream"),
    "no-index.mp4": (media.no_index, "not a video that can be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_is_said_in_plain_words(tmp_path: Path, name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(DecodeError, match=words) as caught:
        probe(make(tmp_path / name))
    assert name in str(caught.value)


def test_a_missing_file_is_a_missing_artefact(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"nothing\.mp4"):
        probe(tmp_path / "nothing.mp4")


def test_a_playlist_under_a_videos_name_is_not_followed(tmp_path: Path) -> None:
    target = media.write_coded(tmp_path / "target.ts", 5)
    for name in ("list.mp4", "list.m3u8"):
        with pytest.raises(DecodeError):
            probe(media.playlist(tmp_path / name, target))


@pytest.mark.parametrize("name", ["a:b.mp4", "a=b #1.mp4", "-i.mp4", "007.mp4", "ü ñ.mp4"])
def test_names_are_taken_literally(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    media.write_coded(tmp_path / "plain.mp4", 4).rename(path)
    for decoder in ("decord", "pyav"):
        assert len(read_frames(path, policy=decoder)) == 4


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    folder = media.image_folder(tmp_path / "video", range(7, 23))  # "10.png" sorts before "7.png" as text
    assert media.numbers_of(read_frames(folder)) == list(range(7, 23))
    facts = probe(folder)
    assert (facts.fps, facts.expected_frames, facts.codec) == (None, 16, "images")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png", "4.png", "5.png"], r"between 2\.png and 4\.png"),
        (["1.png", "01.png", "2.png"], "the same frame number"),
    ],
)
def test_a_gap_or_a_double_in_the_numbering_names_the_file(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        Image.fromarray(media.coded_frame(1)).save(tmp_path / name)
    with pytest.raises(DecodeError, match=words):
        probe(tmp_path)


def test_every_fifth_image_is_no_gap(tmp_path: Path) -> None:
    assert media.numbers_of(read_frames(media.image_folder(tmp_path / "v", range(0, 50, 5)))) == list(range(0, 50, 5))


def test_an_image_of_another_size_or_a_broken_one_is_named(tmp_path: Path) -> None:
    folder = media.image_folder(tmp_path / "v", range(3))
    Image.fromarray(media.coded_frame(3, width=80)).save(folder / "3.png")
    with pytest.raises(DecodeError, match=r"3\.png is 80x48, the frames before it are 64x48"):
        read_frames(folder)
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:100])
    with pytest.raises(DecodeError, match=r"3\.png is not an image"):
        read_frames(folder)


def test_gray_and_16_bit_images_become_rgb(tmp_path: Path) -> None:
    gray = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 16
    Image.fromarray(gray).save(tmp_path / "0.png")
    Image.fromarray((gray >> 8).astype(np.uint8)).save(tmp_path / "1.png")
    frames = read_frames(tmp_path)
    np.testing.assert_array_equal(frames[0], frames[1])
    assert frames.shape == (2, 48, 64, 3)


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DecodeError, match="holds no images"):
        probe(tmp_path)


def resampled(path: Path, fps: float, decoder: str) -> list[int]:
    numbers = []
    with open_reader(path, decoder) as reader:
        out = np.zeros((reader.height, reader.width, 3), np.uint8)
        for frame in Resampled(reader, fps):
            frame.write(out)
            numbers.append(media.number_of(out))
    return numbers


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_resampling_takes_the_frame_nearest_in_time(tmp_path: Path, decoder: str) -> None:
    path = media.write_coded(tmp_path / "12.mp4", 24, fps=12)  # two seconds
    assert resampled(path, 12, decoder) == list(range(24))
    assert resampled(path, 4, decoder) == [0, 3, 6, 9, 12, 15, 18, 21]
    # Every output time is half-way between two frames or on one: ties take the earlier frame.
    assert resampled(path, 24, decoder) == [k // 2 for k in range(48)]
    assert resampled(path, 8, decoder) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]


def test_resampling_a_variable_rate_follows_the_clock(tmp_path: Path) -> None:
    path = media.variable_rate(tmp_path / "vfr.mp4", count=6)  # at 0 1 2 5 6 7 twelfths
    assert resampled(path, 12, "pyav")[:8] == [0, 1, 2, 2, 3, 3, 4, 5]


def test_images_have_no_times_to_resample_by(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no frame times"):
        resampled(media.image_folder(tmp_path / "v", range(4)), 5, "images")


def test_unknown_decoders_are_refused() -> None:
    assert parse_policy("decord > pyav") == ("decord", "pyav")
    with pytest.raises(UsageError, match="opencv"):
        parse_policy("decord>opencv")


@pytest.mark.real
def test_decoders_agree_on_real_footage(shared: Path) -> None:
    clips = sorted((shared / "surv-fight").glob("*/*.mp4"))[::40]
    assert len(clips) >= 5
    for path in [*clips, shared / "shanghaitech-pair" / "01_002.avi"]:
        with open_reader(path, "decord") as one, open_reader(path, "pyav") as two:
            a, b = (np.zeros((one.height, one.width, 3), np.uint8) for _ in range(2))
            for left, right in zip(one, two, strict=True):
                left.write(a)
                right.write(b)
                assert np.array_equal(a, b), (path.name, one.decoded)
            assert one.decoded == one.facts.expected_frames


@pytest.mark.real
def test_the_shanghaitech_video_has_the_frames_of_its_published_features(shared: Path) -> None:
    facts = probe(shared / "shanghaitech-pair" / "01_002.avi")
    assert (facts.expected_frames, facts.width, facts.height, facts.fps) == (481, 856, 480, 24.0)
