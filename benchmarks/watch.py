"""`vad watch` under load, and whether calibrated thresholds keep their promise.

    python benchmarks/watch.py load --cameras 40 --minutes 3                     # real time
    python benchmarks/watch.py load --cameras 10 --minutes 3 --speed 8           # accelerated: is memory flat?
    python benchmarks/watch.py load --cameras 20 --minutes 2 --run RUN           # another scorer, effnet say
    python benchmarks/watch.py alarms NORMAL_FOLDER --target 30 --splits 20      # false alarms on held-out footage

`load` serves 320x240 at 10 frames a second from one process over loopback, each camera at its own phase of the same
footage (joined from `--footage`, or drawn), and starts `vad watch` as a user does. Latency is from a frame's arrival at
its reader to the line that says the event begins; memory is proportional (shared pages counted once) over all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, count
from pathlib import Path

import numpy as np

FPS, WIDTH, HEIGHT = 10, 320, 240
FRAMES = 6000


def main() -> None:
    """Parse and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    load = parts.add_parser("load")
    load.add_argument("--cameras", type=int, default=40)
    load.add_argument("--minutes", type=float, default=3.0)
    load.add_argument("--speed", type=float, default=1.0)
    load.add_argument("--footage", type=Path)
    load.add_argument("--run", default="motion-scalar")
    load.add_argument("--threshold", type=float, default=0.05)
    alarms = parts.add_parser("alarms")
    alarms.add_argument("normal", type=Path)
    alarms.add_argument("--target", type=float, default=30.0)
    alarms.add_argument("--splits", type=int, default=20)
    alarms.add_argument("--run", default="motion-scalar")
    serve = parts.add_parser("serve")
    serve.add_argument("stream", type=Path)
    serve.add_argument("ports", type=int, nargs="+")
    serve.add_argument("--speed", type=float, default=1.0)
    arguments = parser.parse_args()
    {"load": run_load, "alarms": run_alarms, "serve": run_serve}[arguments.part](arguments)


# Load


def run_load(a: argparse.Namespace) -> None:
    """Serve, watch, measure, print."""
    with tempfile.TemporaryDirectory(prefix="vad-watch-") as name:
        folder = Path(name)
        stream = make_stream(folder / "footage.ts", a.footage)
        ports = free_ports(a.cameras)
        cameras = [{"name": f"cam{k:02d}", "source": f"tcp://127.0.0.1:{port}"} for k, port in enumerate(ports)]
        (folder / "cameras.yaml").write_text(json.dumps({"cameras": cameras}))  # JSON is YAML
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", str(stream), *map(str, ports), "--speed", str(a.speed)]
        )
        time.sleep(2.0)
        command = [sys.executable, "-m", "vadcli", "watch", str(folder / "cameras.yaml"), "--json", "--run", a.run,
                   "--threshold", str(a.threshold), "--out", str(folder / "out"), "--duration-s", str(60 * a.minutes)]  # fmt: skip
        started = time.monotonic()
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
            watch = subprocess.Popen(command, stdout=out, stderr=err)
            samples = sample(watch)
        server.kill()
        report(a, folder, samples, time.monotonic() - started)


def sample(process: subprocess.Popen[bytes]) -> list[tuple[float, float, float, int]]:
    """(seconds, MiB over all processes, processor seconds of all, processes) every two seconds until it ends."""
    import psutil

    root, found, started = psutil.Process(process.pid), [], time.monotonic()
    spent: dict[int, float] = {}
    while process.poll() is None:
        memory, alive = 0.0, 0
        for one in [root, *root.children(recursive=True)]:
            try:
                memory += one.memory_full_info().pss / 2**20
                times = one.cpu_times()
                spent[one.pid] = times.user + times.system
                alive += 1
            except psutil.Error:
                continue
        found.append((time.monotonic() - started, memory, sum(spent.values()), alive))
        time.sleep(2.0)
    return found


def report(a: argparse.Namespace, folder: Path, samples: list[tuple[float, float, float, int]], wall_s: float) -> None:
    """What a reader wants to know."""
    lines = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    begins = [line for line in lines if line["type"] == "begin" and line["kind"] == "anomaly"]
    late = np.array([line["latency_s"] for line in begins])
    dropped = sum(line["clips"] for line in lines if line["type"] == "dropped")
    memory = np.array([one[1] for one in samples])
    first, last = len(memory) // 10, max(1, len(memory) // 10)
    steady = memory[first:]
    slope = np.polyfit([one[0] / 60 for one in samples[first:]], steady, 1)[0] if len(steady) > 4 else float("nan")
    cpu = samples[-1][2]
    scored = a.cameras * wall_s * a.speed
    print(f"{a.cameras} cameras {WIDTH}x{HEIGHT} at {FPS * a.speed:g} frames/s, {a.run}, {wall_s:.0f} s wall")
    print(f"events that began: {len(begins)}; dropped clips: {dropped} of about {scored * FPS / 8:.0f}")
    if len(late):
        shares = f"{100 * (late <= 5).mean():.1f} % within 5 s"
        print(f"latency: median {np.median(late):.2f} s, 95 % {np.quantile(late, 0.95):.2f} s, {shares}")
    print(f"memory: peak {memory.max():.0f} MiB over {max(one[3] for one in samples)} processes, "
          f"after the first tenth {steady[0]:.0f} -> {steady[-last:].mean():.0f} MiB, {slope:+.1f} MiB a minute")  # fmt: skip
    print(f"processor: {cpu:.0f} s, {cpu / wall_s:.2f} cores, {1000 * cpu / scored:.1f} ms a stream-second")
    others = sorted({f"{line['kind']}: {line['reason']}" for line in lines if line.get("kind") == "lost"})
    if others:
        print("lost:", *others[:3], sep="\n  ")


def make_stream(path: Path, footage: Path | None) -> Path:
    """Ten minutes of a transport stream: real clips joined, or calm with something wild now and then.

    Beside it `<name>.json`: where each frame's bytes end, and which frames one may begin with.
    """
    import av

    ends, keys = [], []
    with (
        path.open("wb") as file,
        av.open(
            file, "w", format="mpegts", options={"flush_packets": "1", "mpegts_flags": "pat_pmt_at_frames"}
        ) as container,
    ):
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "20", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frames = real(footage, FRAMES) if footage else drawn(FRAMES)
        pictures = (av.VideoFrame.from_ndarray(array, format="rgb24") for array in frames)
        for picture in chain(pictures, [None]):
            for packet in stream.encode(picture):
                keys.append(packet.is_keyframe)
                container.mux(packet)
                ends.append(file.tell())
    path.with_suffix(".json").write_text(json.dumps({"ends": ends, "keys": [k for k, key in enumerate(keys) if key]}))
    return path


def drawn(total: int) -> Iterator[np.ndarray]:
    """Calm with noise; three seconds of it wild, now and then."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (16, HEIGHT, WIDTH, 1))
    storm = rng.integers(0, 255, (16, HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    until = next_storm = 150
    for number in range(total):
        if number == next_storm:
            until, next_storm = number + 30, number + int(rng.integers(200, 400))
        if number < until and number >= 150:
            yield storm[number % 16]
            continue
        frame = np.full((HEIGHT, WIDTH, 3), 90) + noise[number % 16]
        left = (4 * number) % (WIDTH - 40)
        frame[60:120, left : left + 40] = 200
        yield frame.clip(0, 255).astype(np.uint8)


def real(folder: Path, count: int) -> Iterator[np.ndarray]:
    """The videos of a folder one after the other, every frame taken as a tenth of a second, until there are enough."""
    from PIL import Image

    from pipelines.live.cameras import videos_of
    from pipelines.video.decode import read_frames

    made = 0
    while made < count:
        for path in videos_of(folder):
            for frame in read_frames(path):
                yield np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT)))
                made += 1
                if made == count:
                    return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    import socket

    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def run_serve(a: argparse.Namespace) -> None:
    """One process that plays all cameras: a frame's packets at a time, each camera from elsewhere in the stream."""
    data, index = a.stream.read_bytes(), json.loads(a.stream.with_suffix(".json").read_text())
    ends = index["ends"]
    pieces = [data[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    asyncio.run(play(pieces, index["keys"], a.ports, a.speed))


async def play(pieces: list[bytes], keys: list[int], ports: list[int], speed: float) -> None:
    """Every caller gets frames from a keyframe on, at the pace of the clock, for ever."""

    def handler(start: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            began = time.monotonic() + random.random() / FPS
            try:
                for sent in count(0):
                    writer.write(pieces[(start + sent) % len(pieces)])
                    await writer.drain()
                    await asyncio.sleep(max(0.0, began + (sent + 1) / FPS / speed - time.monotonic()))
            except (ConnectionError, asyncio.CancelledError):
                writer.close()

        return serve

    rng = random.Random(0)
    servers = [await asyncio.start_server(handler(rng.choice(keys)), "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


# False alarms


def run_alarms(a: argparse.Namespace) -> None:
    """Score every video once, as `vad watch` does; then calibrate on random halves of the videos and count on the other."""
    from pipelines.calibrate import CalibrateRequest, _listen
    from pipelines.live.cameras import Camera, videos_of
    from pipelines.live.scores import LiveScorer
    from pipelines.progress import Silent
    from pipelines.scoring.calibration import count as count_events
    from pipelines.scoring.calibration import target_rate
    from pipelines.scoring.events import AlarmRule
    from pipelines.scoring.scorer import load_scorer

    files = videos_of(a.normal)
    camera = Camera(name="camera", source=str(files[0]))
    live = LiveScorer(load_scorer(a.run), "cpu")
    request = CalibrateRequest(
        cameras=(camera,), footage={"camera": files}, target_fa_per_hour=a.target, out=Path("unused")
    )
    heard, failures = _listen(request, live, Silent())
    lines = heard["camera"].joined()
    hours = sum(len(scores) / fps for scores, fps in lines) / 3600
    print(f"{len(lines)} normal videos, {60 * hours:.1f} min, {live.scorer.name}; failed: {len(failures)}")
    rng, rates, ratios = np.random.default_rng(0), [], []
    for _ in range(a.splits):
        order = rng.permutation(len(lines))
        ours, held = ([lines[k] for k in part] for part in np.array_split(order, 2))
        learnt = target_rate(ours, a.target, AlarmRule(on=0.0))
        held_hours = sum(len(scores) / fps for scores, fps in held) / 3600
        rates.append(count_events(held, learnt.rule) / held_hours)
        ratios.append(rates[-1] / a.target)
    within = 100 * np.mean(np.array(ratios) <= 2)
    print(f"target {a.target:g} an hour; realised on held-out halves: mean {np.mean(rates):.1f}, "
          f"median {np.median(rates):.1f}, largest {max(rates):.1f}; {within:.0f} % of {a.splits} splits within twice")  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    main()
