"""How fast extraction is against its parts, and whether its memory stays flat. Prints ratios of one run.

    python benchmarks/extract.py FOLDER [--encoder effnet:lite0+motion] [--clip-len 8] [--rounds 3]
    python benchmarks/extract.py --memory [--videos 1000]
    python benchmarks/extract.py --long HOURS          # one long video: memory against the same video at a tenth

The first measures, in turns and on the same cores, decode alone (d), encode alone (e, from clips in memory) and the
whole extraction with its commits, in frames of video per second, and prints extraction / (1 / (1/d + 1/e)), on a GPU
extraction / min(d, e), and which side limits. Encoders whose weights are not here run with seeded random ones. The second ratio is the processor time of the two parts over that of the whole: it shows the
overhead also where other work shares the machine.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import psutil

from pipelines import extract
from pipelines.data.ids import VIDEO_SUFFIXES
from pipelines.encoders._base import Precision
from pipelines.encoders._weights import locate
from pipelines.extraction.engine import Engine, Stream, decode_workers, encode_threads, torch_threads
from pipelines.extraction.jobs import ClipBatch, DecodeJob, VideoDone
from pipelines.extraction.plan import Sampling, WeightsMode, choose_encoders
from pipelines.extraction.pool import DecodePool
from pipelines.extraction.writer import Ticket, Writer
from pipelines.progress import Silent
from pipelines.records import Video
from pipelines.video.crops import CROPS
from pipelines.video.write import write_video

HELD_MB = 400  # clips kept in memory for the measurement of encoding alone


@dataclass(frozen=True)
class Folder:
    """The videos below a folder, as a dataset."""

    name: str
    videos: tuple[Video, ...]

    def all_videos(self) -> list[Video]:
        return list(self.videos)


class Nowhere:
    """A writer that forgets, so that encoding can be measured without commits."""

    def deliver(self, *ignored: object) -> None:
        pass


def main() -> None:
    """Parse the command line and run one of the two benchmarks."""
    options = _parser().parse_args()
    if options.memory:
        memory(options.videos)
        return
    if options.long:
        long(options.long, options.encoder)
        return
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    paths = (paths[: options.limit] if options.limit else paths) * options.repeat
    videos = tuple(Video(f"v{index:05d}", path, "train", ()) for index, path in enumerate(paths))
    speed(Folder("benchmark", videos), options)


def speed(dataset: Folder, options: argparse.Namespace) -> None:
    """Rounds of decode alone, encode alone, extraction; medians and the ratio."""
    device = extract.pick_device(options.device)
    sampling = Sampling(options.clip_len, options.stride or options.clip_len)
    workers = options.workers or decode_workers(device)
    streams = _streams(options.encoder, sampling, options.crops, device, options.precision)
    positions = tuple(sorted({p for stream in streams for p in stream.positions}))
    jobs = [DecodeJob(v.id, v.path, sampling.clip_len, sampling.stride, positions) for v in dataset.videos]
    held, lengths = _hold(jobs, workers)
    print(f"{len(jobs)} videos, {sum(lengths)} frames, {workers} decoders, {encode_threads(device)} encoding threads")
    rounds: list[tuple[float, ...]] = []
    for number in range(options.rounds):
        d, cpu_d = _timed(lambda: [None for _ in _decode(jobs, workers)], sum(lengths))
        e, cpu_e = _encode(streams, held, positions, sampling, device)
        x, cpu_x = _timed(lambda: _extract(dataset, options, sampling, device, workers), sum(lengths))
        ideal = 1 / (1 / d + 1 / e) if device == "cpu" else min(d, e)
        rounds.append((d, e, x, x / ideal, (cpu_d + cpu_e) / cpu_x))
        print(f"round {number + 1}: {_told(rounds[-1])}")
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print(f"median:  {_told(middle)}")
    print(_limit(*middle[:2], device))


def _told(values: Sequence[float]) -> str:
    d, e, x, wall, cpu = values
    return f"decode {d:.0f}, encode {e:.0f}, extraction {x:.0f} frames/s, ratio {wall:.3f}, by processor time {cpu:.3f}"


def _limit(decode: float, encode: float, device: str) -> str:
    """Which side decides the rate, in words."""
    slow, fast = ("decoding", "encoding") if decode < encode else ("encoding", "decoding")
    share = min(decode, encode) / max(decode, encode)
    shared = "; both use the same cores" if device == "cpu" else ""
    return f"{slow} limits: it runs at {share:.2f} of the rate of {fast}{shared}"


def long(hours: float, encoder: str) -> None:
    """Peak resident memory of this process and its children for one long video, and for one of a tenth of it."""
    folder = Path(tempfile.mkdtemp(prefix="vad-long-"))
    try:
        for name, part in (("tenth", hours / 10), ("whole", hours)):
            path = _drawn(folder / f"{name}.mp4", round(part * 3600 * LONG_FPS))
            (folder / name).mkdir()
            watch = Sampler()
            request = extract.ExtractRequest(
                Folder(name, (Video(name, path, "train", ()),)), (folder / name / "cache",), (encoder,), workers=1
            )
            with watch:
                result = extract.run(request)
            print(
                f"{name}: {part:.1f} h, {result.n_frames} frames of 64x48, {result.seconds:.0f} s; failures: "
                f"{len(result.failures)}; peak {watch.own:.0f} MB, with its children {watch.total:.0f} MB",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)


LONG_FPS = 25


def _drawn(path: Path, n_frames: int) -> Path:
    """A small video of a drifting square, written frame by frame."""

    def frames() -> Iterator[np.ndarray]:
        for index in range(n_frames):
            frame = np.full((48, 64, 3), 60, np.uint8)
            frame[16:24, index % 56 : index % 56 + 8] = 200
            yield frame

    return write_video(path, frames(), fps=LONG_FPS).path


class Sampler:
    """Samples resident memory ten times a second in a thread, MB: `own` peak, and `total` with children."""

    def __enter__(self) -> Sampler:
        self.own = self.total = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            own = me.memory_info().rss
            self.own = max(self.own, own / 2**20)
            self.total = max(self.total, (own + sum(_rss(c) for c in me.children(recursive=True))) / 2**20)


def memory(n_videos: int) -> None:
    """Resident memory of this process and its children while many tiny videos are extracted."""
    folder = Path(tempfile.mkdtemp(prefix="vad-memory-"))
    try:
        first = _tiny(folder)
        videos = tuple(Video(f"v{i:05d}", _copy(first, folder / f"v{i:05d}.mp4"), "train", ()) for i in range(n_videos))
        watch = Watch(every=max(1, n_videos // 10))
        request = extract.ExtractRequest(
            Folder("tiny", videos), (folder / "cache",), ("effnet:lite0", "motion"), sampling=Sampling(8, 8)
        )
        result = extract.run(request, progress=watch)
        own, all_ = zip(*watch.samples, strict=True)
        print(f"{n_videos} videos, {result.n_frames} frames; failures: {len(result.failures)}")
        print("MB of this process:    ", " ".join(f"{value:.0f}" for value in own))
        print("MB with its children:  ", " ".join(f"{value:.0f}" for value in all_))
        print(f"growth of this process after the first tenth: {own[-1] - own[0]:.1f} MB")
    finally:
        shutil.rmtree(folder)


class Watch(Silent):
    """A progress sink that samples memory."""

    def __init__(self, every: int) -> None:
        self.every, self.count = every, 0
        self.samples: list[tuple[float, float]] = []

    def advance(self, count: int = 1) -> None:
        self.count += count
        if self.count % self.every == 0:
            me = psutil.Process()
            own = me.memory_info().rss
            self.samples.append(
                (own / 2**20, (own + sum(_rss(child) for child in me.children(recursive=True))) / 2**20)
            )


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _weights_mode(encoders: str) -> WeightsMode:
    """Published weights where all are here, else random ones."""
    cards = [choice.encoder.weights for choice in choose_encoders([encoders])]
    return "published" if all(card is None or locate(card) for card in cards) else "random"


def _streams(encoders: str, sampling: Sampling, crops: str, device: str, precision: Precision) -> list[Stream]:
    streams = []
    for choice in choose_encoders([encoders], weights=_weights_mode(encoders)):
        choice.load(device, precision)
        names = CROPS[crops] if choice.encoder.preprocess.crop_px else ("center",)
        streams.append(Stream(choice.encoder, names, choice.encoder.positions(sampling.clip_len), device))
    return streams


def _hold(jobs: Sequence[DecodeJob], workers: int) -> tuple[list[np.ndarray], list[int]]:
    held: list[np.ndarray] = []
    lengths: list[int] = []
    for event in _decode(jobs, workers):
        if isinstance(event, VideoDone):
            lengths.append(event.n_frames)
        elif isinstance(event, ClipBatch) and sum(clips.nbytes for clips in held) < HELD_MB * 2**20:
            held.append(event.clips.copy())
    return held, lengths


def _decode(jobs: Sequence[DecodeJob], workers: int) -> Iterator[object]:
    with DecodePool(workers) as pool:
        yield from pool.run(jobs)


def _encode(
    streams: Sequence[Stream], held: Sequence[np.ndarray], positions: Sequence[int], sampling: Sampling, device: str
) -> tuple[float, float]:
    threads = encode_threads(device)
    video = Video("held", Path("held"), "train", ())

    def work() -> None:
        nowhere = cast(Writer, Nowhere())
        split = 1 if device == "cpu" and threads > 1 else threads
        with torch_threads(split), Engine(dict(enumerate(streams)), nowhere, threads=threads) as engine:
            for clips in held:
                engine.submit(Ticket(video, tuple(range(len(streams)))), 0, clips, positions)
            engine.flush()

    return _timed(work, sum(len(clips) for clips in held) * sampling.stride)


def _extract(dataset: Folder, options: argparse.Namespace, sampling: Sampling, device: str, workers: int) -> None:
    with tempfile.TemporaryDirectory(prefix="vad-bench-") as cache:
        request = extract.ExtractRequest(
            dataset, (Path(cache),), (options.encoder,), crops=options.crops, sampling=sampling, device=device,
            workers=workers, precision=options.precision, weights=_weights_mode(options.encoder),
        )  # fmt: skip
        extract.run(request).raise_for_failures()


def _timed(work: Callable[[], object], n_frames: int) -> tuple[float, float]:
    """(frames per second, processor seconds per frame of this process and its ended children)."""
    started, before = time.monotonic(), _cpu_s()
    work()
    return n_frames / (time.monotonic() - started), (_cpu_s() - before) / n_frames


def _cpu_s() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _tiny(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(17)]
    return write_video(folder / "tiny.mp4", frames, fps=25).path


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copyfile(source, target))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--encoder", default="effnet:lite0+motion")
    parser.add_argument("--crops", choices=tuple(CROPS), default="center")
    parser.add_argument("--clip-len", type=int, default=8)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="read the list so many times over")
    parser.add_argument("--limit", type=int, help="only the first so many videos")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--long", type=float, metavar="HOURS")
    parser.add_argument("--videos", type=int, default=1000)
    return parser


if __name__ == "__main__":
    main()
