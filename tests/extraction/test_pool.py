"""The decode pool: right clips through shared memory, and no file can hang, crash or starve the caller."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.errors import UsageError
from pipelines.extraction.pool import ClipBatch, DecodeJob, DecodePool, VideoDone, VideoFailed, VideoRestarted
from pipelines.spans import clip_frame_indices
from pipelines.video.decode import source_fingerprint
from tests import media


def job_of(path: Path, **options: object) -> DecodeJob:
    """A job for all frames of clips of 8."""
    return DecodeJob(
        **{"video_id": path.name, "path": path, "clip_len": 8, "stride": 8, "positions": tuple(range(8)), **options}
    )


class Outcome:
    """What a consumer makes of the events: clips per video, how each ended, which were restarted."""

    def __init__(self, events: Iterator[object]) -> None:
        self.clips: dict[str, list[np.ndarray]] = {}
        self.ends: dict[str, VideoDone | VideoFailed] = {}
        self.restarts: list[VideoRestarted] = []
        for event in events:
            self._take(event)

    def _take(self, event: object) -> None:
        if isinstance(event, ClipBatch):
            clips = self.clips.setdefault(event.video_id, [])
            assert event.first_clip == len(clips), "clips come in order and without gaps"
            clips += [clip.copy() for clip in event.clips]
        elif isinstance(event, VideoRestarted):
            self.restarts.append(event)
            self.clips.pop(event.video_id, None)
        else:
            assert event.video_id not in self.ends, "a video ends once"
            self.ends[event.video_id] = event

    def numbers(self, video_id: str) -> np.ndarray:
        """The source frame's number at each clip and position."""
        clips = np.stack(self.clips[video_id])
        return np.array(media.numbers_of(clips)).reshape(clips.shape[:2])


def run(jobs: list[DecodeJob], workers: int = 1, **options: object) -> Outcome:
    """All events of one pool; afterwards none of its children is left."""
    with DecodePool(workers, **options) as pool:
        outcome = Outcome(pool.run(iter(jobs)))
        pids = pool.pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
    return outcome


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Poll a condition; fail when it does not come true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


# Right clips


@pytest.mark.parametrize("workers", [1, 2])
def test_clips_and_facts_of_several_videos(tmp_path: Path, workers: int) -> None:
    lengths = {"a.mp4": 30, "b=1 #.mp4": 8, "007.mp4": 61, "short.mp4": 3, "one.mp4": 1, "c.mp4": 100}
    paths = {name: media.write_coded(tmp_path / name, count) for name, count in lengths.items()}
    outcome = run([job_of(path) for path in paths.values()], workers)
    for name, count in lengths.items():
        expected = clip_frame_indices(count, clip_len=8, stride=8)
        np.testing.assert_array_equal(outcome.numbers(name), expected)
        done = outcome.ends[name]
        assert isinstance(done, VideoDone)
        assert (done.n_frames, done.n_sampled, done.expected_frames) == (count, count, count)
        assert (done.n_clips, done.width, done.height, done.fps) == (len(expected), 64, 48, 12.0)
        assert done.duration_s == pytest.approx(count / 12)
        assert done.decoder == "decord" and done.decoder_version
        assert done.source == source_fingerprint(paths[name])


@pytest.mark.parametrize("last_clip", ["drop", "repeat", "pad"])
@pytest.mark.parametrize(("clip_len", "stride"), [(16, 4), (8, 8), (4, 10)])
def test_overlaps_gaps_and_last_clips(tmp_path: Path, clip_len: int, stride: int, last_clip: str) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 71)
    sampling = {"clip_len": clip_len, "stride": stride, "last_clip": last_clip}
    positions = (0, clip_len // 2, clip_len - 1)
    outcome = run([job_of(path, positions=positions, **sampling)])
    expected = clip_frame_indices(71, **sampling)[:, list(positions)]
    np.testing.assert_array_equal(outcome.numbers("v.mp4"), expected)


def test_resampled_clips_know_both_lengths(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 48, fps=12)
    outcome = run([job_of(path, fps=6.0)])
    done = outcome.ends["v.mp4"]
    assert (done.n_frames, done.n_sampled, done.n_clips, done.fps) == (48, 24, 3, 12.0)
    np.testing.assert_array_equal(outcome.numbers("v.mp4").ravel(), np.arange(0, 48, 2))


def test_a_folder_of_images_is_a_video(tmp_path: Path) -> None:
    folder = media.image_folder(tmp_path / "frames", range(20))
    outcome = run([job_of(folder)])
    np.testing.assert_array_equal(outcome.numbers("frames"), np.arange(16).reshape(2, 8))
    done = outcome.ends["frames"]
    assert (done.n_frames, done.fps, done.duration_s, done.decoder) == (20, None, None, "images")


def test_frames_of_every_size_follow_one_another(tmp_path: Path) -> None:
    sizes = [(64, 48), (1280, 720), (66, 50), (1920, 1080), (64, 48), (640, 480)]
    paths = [media.write_coded(tmp_path / f"{k}.mp4", 17, width=w, height=h) for k, (w, h) in enumerate(sizes)]
    outcome = run([job_of(path) for path in paths])
    for path, (width, height) in zip(paths, sizes, strict=True):
        assert outcome.clips[path.name][0].shape == (8, height, width, 3)
        np.testing.assert_array_equal(outcome.numbers(path.name), np.arange(16).reshape(2, 8))


def test_batches_that_the_caller_keeps_are_not_overwritten(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 640, width=320, height=240)
    with DecodePool(1) as pool:
        kept = [event for event in pool.run([job_of(path)]) if isinstance(event, ClipBatch)]
    assert len(kept) > 12  # more than there are slots
    numbers = [media.numbers_of(batch.clips) for batch in kept]
    assert list(itertools.chain(*numbers)) == list(range(640))


def test_jobs_are_read_lazily(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 8)
    taken = []

    def jobs() -> Iterator[DecodeJob]:
        for index in range(1000):
            taken.append(index)
            yield job_of(path, video_id=str(index))

    with DecodePool(1) as pool:
        next(pool.run(jobs()))
        assert len(taken) < 20


def test_children_are_recycled(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 8)
    seen: set[int] = set()
    with DecodePool(1, recycle=3) as pool:
        ends = 0
        for event in pool.run([job_of(path, video_id=str(k)) for k in range(10)]):
            seen |= set(pool.pids)
            ends += isinstance(event, VideoDone)
        assert ends == 10
    assert len(seen) >= 4
    assert not any(alive(pid) for pid in seen)


# Bad files


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("empty.mp4", media.zero_bytes, r"empty \(0 bytes\)"),
        ("text.mp4", media.text_file, "not a video"),
        ("audio.mp4", media.audio_only, "no video stream"),
        ("no-index.mp4", media.no_index, "not a video"),
        ("truncated.mp4", media.truncated, r"^\d\d of 120 frames decoded"),
        ("damaged.mp4", media.corrupt_middle, r"^\d\d\d of 240 frames decoded"),
        ("missing.mp4", lambda path: path, "there is no file"),
    ],
)
def test_a_bad_file_is_a_failure_in_words_and_the_next_video_is_done(
    tmp_path: Path, name: str, make: Callable[[Path], Path], words: str
) -> None:
    good = media.write_coded(tmp_path / "good.mp4", 16)
    outcome = run([job_of(make(tmp_path / name)), job_of(good)])
    failed = outcome.ends[name]
    assert isinstance(failed, VideoFailed)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failed.reason)
    assert isinstance(outcome.ends["good.mp4"], VideoDone)


def test_partial_keep_takes_what_decodes_and_says_so(tmp_path: Path) -> None:
    path = media.corrupt_middle(tmp_path / "damaged.mp4", count=240)
    outcome = run([job_of(path, partial="keep")])
    done = outcome.ends["damaged.mp4"]
    assert isinstance(done, VideoDone)
    assert (done.decoder, done.expected_frames) == ("pyav", 240)
    assert 120 < done.n_frames < 235
    assert done.n_clips == len(outcome.clips["damaged.mp4"]) == done.n_frames // 8
    assert "damaged packets" in " ".join(done.notes)
    assert outcome.restarts[0].decoder == "decord"


def test_a_small_loss_is_accepted(tmp_path: Path) -> None:
    path = media.corrupt_middle(tmp_path / "scratched.mp4", count=600, share=0.0005)
    done = run([job_of(path)]).ends["scratched.mp4"]
    assert isinstance(done, VideoDone)
    assert 0.98 * 600 <= done.n_frames <= 600


def test_a_decoder_that_stops_early_is_not_believed(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 16)
    outcome = run([job_of(path)], policy="tests.media:Gives3>pyav")
    assert outcome.restarts == [VideoRestarted("v.mp4", "tests.media:Gives3", "3 of 16 frames decoded")]
    assert outcome.ends["v.mp4"].n_frames == 16


# Decoders that hang, crash, or eat memory

FAULTS = {
    "Hangs": "no progress for 1.5 s",
    "Crashes": "died of SIGSEGV",
    "Exits": "exit code 3: native assertion failed: x > 0",
    "Bloats": "more than 400 MB of memory",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_child_that_fails_is_replaced_and_the_next_decoder_tried(tmp_path: Path, fault: str) -> None:
    paths = [media.write_coded(tmp_path / f"{k}.mp4", 40) for k in range(2)]
    stall_s = 1.5 if fault == "Hangs" else 30.0
    policy = f"tests.media:{fault}>pyav"
    outcome = run([job_of(path) for path in paths], policy=policy, stall_s=stall_s, memory_mb=400)
    assert [r.video_id for r in outcome.restarts] == ["0.mp4", "1.mp4"]
    for restart in outcome.restarts:
        assert FAULTS[fault] in restart.reason
    for path in paths:
        assert outcome.ends[path.name].decoder == "pyav"
        np.testing.assert_array_equal(outcome.numbers(path.name), np.arange(40).reshape(5, 8))


def test_a_video_that_kills_every_decoder_fails_and_the_others_finish(tmp_path: Path) -> None:
    first, second = (media.write_coded(tmp_path / name, 40) for name in ("a.mp4", "b.mp4"))
    short = media.write_coded(tmp_path / "short.mp4", 6)  # ends before the decoders misbehave
    policy = "tests.media:Hangs>tests.media:Crashes"
    outcome = run([job_of(first), job_of(short), job_of(second)], policy=policy, stall_s=1.5)
    for name in ("a.mp4", "b.mp4"):
        failed = outcome.ends[name]
        assert isinstance(failed, VideoFailed)
        assert "died of SIGSEGV (tests.media:Crashes); the decoder made no progress" in failed.reason
    assert isinstance(outcome.ends["short.mp4"], VideoDone)


def test_clips_of_the_failed_attempt_come_before_the_restart(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 200, width=640, height=480)
    with DecodePool(1, policy="tests.media:Gives3>pyav") as pool:
        kinds = [type(event).__name__ for event in pool.run([job_of(path, clip_len=1, stride=1, positions=(0,))])]
    assert kinds.count("VideoRestarted") == 1
    assert kinds[-1] == "VideoDone"


def test_a_slow_decoder_is_no_stalled_one(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 16)
    outcome = run([job_of(path)], policy="tests.media:Slow", stall_s=2.5)  # 3.2 s in all, 0.2 s a frame
    assert isinstance(outcome.ends["v.mp4"], VideoDone)


# Back pressure


def test_a_caller_that_pauses_stops_the_child_and_is_not_taken_for_a_hang(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 160, width=1280, height=720, options={"preset": "ultrafast"})
    with DecodePool(1, stall_s=1.0) as pool:
        events = pool.run([job_of(path)])
        first = next(events)
        child = psutil.Process(pool.pids[0])
        wait_until(lambda: child.status() == psutil.STATUS_STOPPED)
        before = child.memory_info().rss
        time.sleep(2.0)
        assert child.memory_info().rss <= before + (1 << 20)
        assert before < 700 << 20
        rest = [event for event in events if not isinstance(event, ClipBatch)]
    assert first.first_clip == 0
    assert [type(event) for event in rest] == [VideoDone]
    assert rest[0].decoder == "decord"


def test_releasing_batches_wakes_the_child(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 480, width=320, height=240)
    numbers = []
    with DecodePool(1) as pool:
        for event in pool.run([job_of(path)]):
            if isinstance(event, ClipBatch):
                time.sleep(0.05)  # the child fills all slots and stops
                numbers += media.numbers_of(event.clips)
            del event
            gc.collect()
    assert numbers == list(range(480))


# Endings


def test_leaving_a_run_early_ends_its_children_and_the_pool_can_run_again(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 300, width=320, height=240)
    with DecodePool(2) as pool:
        events = pool.run([job_of(path, video_id=str(k)) for k in range(5)])
        next(events)
        pids = pool.pids
        events.close()
        assert not any(alive(pid) for pid in pids)
        assert len(Outcome(pool.run([job_of(path)])).clips["v.mp4"]) == 37


def test_an_exception_in_the_caller_leaves_no_process(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 100)
    pids: tuple[int, ...] = ()
    with pytest.raises(KeyboardInterrupt), DecodePool(2) as pool:
        for _ in pool.run([job_of(path, video_id=str(k)) for k in range(9)]):
            pids = pool.pids
            raise KeyboardInterrupt
    assert pids and not any(alive(pid) for pid in pids)
    pool.close()  # again, harmless


def test_arrays_outlive_their_pool(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 8)
    with DecodePool(1) as pool:
        batch = next(event for event in pool.run([job_of(path)]) if isinstance(event, ClipBatch))
    gc.collect()
    assert media.numbers_of(batch.clips) == list(range(8))


def test_descriptors_and_shared_memory_are_given_back(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 24)
    run([job_of(path)])
    gc.collect()
    process = psutil.Process()
    before = (process.num_fds(), set(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else set())
    run([job_of(path, video_id=str(k)) for k in range(2)], policy="tests.media:Crashes>pyav", workers=2)
    gc.collect()
    assert process.num_fds() <= before[0]
    if Path("/dev/shm").exists():
        assert not {name for name in set(os.listdir("/dev/shm")) - before[1] if name.startswith("vad")}


PARENT = """
import sys, time
from pathlib import Path
from pipelines.extraction.pool import DecodeJob, DecodePool
job = DecodeJob("v", Path(sys.argv[1]), 8, 8, tuple(range(8)))
pool = DecodePool(2, policy=sys.argv[2])
events = pool.run([job] * 6)
next(events)
print(*pool.pids, flush=True)
time.sleep(600)
"""


def start_parent(path: Path, policy: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process with a pool that prints its children and then pauses."""
    command = [sys.executable, "-c", PARENT, str(path), policy]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids
    return parent, pids


def test_children_die_with_a_killed_parent_even_when_stopped(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 300, width=640, height=480)
    parent, pids = start_parent(path, "decord>pyav")
    wait_until(lambda: any(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_children_ignore_signals_meant_for_the_parent(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 12)
    with DecodePool(1, policy="tests.media:Slow") as pool:
        events = pool.run([job_of(path)])
        time.sleep(0.1)
        first = next(events)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pool.pids[0], number)
        rest = list(events)
    assert isinstance(first, ClipBatch)
    assert isinstance(rest[-1], VideoDone)


def test_the_working_directory_cannot_shadow_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 8)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    monkeypatch.chdir(tmp_path)
    assert isinstance(run([job_of(path)]).ends["v.mp4"], VideoDone)


def test_a_pool_needs_a_worker_and_known_decoders() -> None:
    with pytest.raises(UsageError, match="0 decoder processes"):
        DecodePool(0)
    with pytest.raises(UsageError, match="opencv"):
        DecodePool(1, policy="opencv")


def test_a_decoder_child_imports_no_torch() -> None:
    code = "import sys; import pipelines.extraction.child; print(sorted({'torch', 'av', 'decord', 'zarr'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.real
def test_real_clips_through_the_pool_equal_in_process_decoding(shared: Path) -> None:
    from pipelines.video.decode import read_frames

    paths = sorted((shared / "surv-fight").glob("*/*.mp4"), key=lambda p: p.stat().st_size)[:150:40]
    outcome = run([job_of(path) for path in paths], workers=2)
    for path in paths:
        frames = read_frames(path)
        clips = np.concatenate(outcome.clips[path.name])
        np.testing.assert_array_equal(clips, frames[: len(clips)])
        assert outcome.ends[path.name].n_frames == len(frames)
