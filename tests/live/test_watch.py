"""`vad watch` end to end: what it says of footage is what `vad predict` says, over streams that die, lie and come back."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import watch
from pipelines.errors import MissingArtifactError, PartialFailure, VadError
from pipelines.live import feed
from pipelines.live.cameras import choose, load
from pipelines.live.scores import LiveScorer
from pipelines.predict import PredictRequest
from pipelines.predict import run as predict
from pipelines.scoring.scorer import load_scorer
from pipelines.video.decode import read_frames
from tests import media
from tests.cli.process import start, vad
from tests.live.streams import (
    THRESHOLD,
    calm,
    footage,
    free_port,
    needs_ffmpeg,
    serve,
    serve_bytes,
    wild,
)

README = dict(
    re.findall(
        r"<!-- readme: (\S+) -->\n```\w+\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL
    )
)
CLIP_S = 0.8  # 8 frames at 10 a second


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """24 s with events at about 6 and 16 s."""
    return footage(tmp_path_factory.mktemp("a") / "a.mp4", (calm, 60), (wild, 24), (calm, 76), (wild, 16), (calm, 64))


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> Path:
    """13 s with one event at about 5 s."""
    return footage(tmp_path_factory.mktemp("b") / "b.mp4", (calm, 48), (wild, 24), (calm, 58))


def predicted(path: Path, out: Path) -> list[tuple[float, float]]:
    result = predict(PredictRequest(source=path, run="motion-scalar", threshold=THRESHOLD, out=out))
    return [(e.start_s, e.end_s) for e in result.predictions[0].events]


def watched(cameras, out: Path, **values) -> tuple[list[dict], watch.WatchResult | None]:
    told: list[dict] = []
    values = {"idle_s": 1.0, "threshold": THRESHOLD} | values
    request = watch.WatchRequest(cameras=cameras, run="motion-scalar", out=out, **values)
    return told, watch.run(request, tell=told.append)


def ends(told: list[dict], kind: str = "anomaly", camera: str | None = None) -> list[tuple[float, float]]:
    return [
        (e["start_s"], e["end_s"])
        for e in told
        if e["type"] == "end" and e["kind"] == kind and camera in (None, e["camera"])
    ]


def test_a_file_gives_the_events_of_predict_and_what_belongs_to_them(first, tmp_path):
    told, result = watched(choose(str(first)), tmp_path / "w")
    assert ends(told) == predicted(first, tmp_path / "p") and len(ends(told)) == 2
    assert [e["type"] for e in told] == ["begin", "end"] * 2
    assert (result.events, result.dropped, result.failures) == ({"camera": 2}, {"camera": 0}, {})
    lines = [json.loads(line) for line in (tmp_path / "w" / "events.jsonl").read_text().splitlines()]
    assert lines == told
    event = told[1]
    folder = Path(event["folder"])
    assert {p.name for p in folder.iterdir()} == {"event.json", "snapshot.jpg", "clip.mp4"}
    assert json.loads((folder / "event.json").read_text()) == event
    clip = read_frames(folder / "clip.mp4")
    wanted = (event["end_s"] - event["start_s"] + watch.PRE_ROLL_S + watch.POST_ROLL_S) * 10
    assert wanted - 2 <= len(clip) <= wanted + 60  # it goes on until the end is known
    spread = clip.reshape(len(clip), -1).std(axis=1)
    assert spread[:40].max() < 40 < spread.max()  # five seconds of calm, then the event
    assert event["peak"] > THRESHOLD == event["threshold"] and event["latency_s"] >= 0


def test_a_file_that_is_still_being_written_is_followed(second, tmp_path):
    """A transport stream that grows in pieces over two seconds, each later than the reader is."""
    whole = media.write_coded(tmp_path / "x.ts", 10).parent / "b.ts"
    footage(whole, (calm, 48), (wild, 24), (calm, 58))
    data, growing = whole.read_bytes(), tmp_path / "growing.ts"
    growing.write_bytes(data[: len(data) // 8])

    def write() -> None:
        for k in range(1, 8):
            time.sleep(0.25)
            with growing.open("ab") as file:
                file.write(data[k * len(data) // 8 : (k + 1) * len(data) // 8])

    threading.Thread(target=write).start()
    told, _ = watched(choose(str(growing)), tmp_path / "w", idle_s=1.5)
    assert ends(told) == predicted(whole, tmp_path / "p") and len(ends(told)) == 1


@needs_ffmpeg
def test_streams_that_die_and_come_back_or_send_garbage(first, second, tmp_path, monkeypatch):
    """Three cameras at once: one dies and comes back with other footage, one sends noise, one is not there."""
    monkeypatch.setattr(feed, "BACKOFF_S", (0.2, 0.4))
    port, gone = free_port(), free_port()
    noise = serve_bytes(np.random.default_rng(0).bytes(200_000))
    listed = [
        {"name": "hall", "source": f"tcp://u:hush@127.0.0.1:{port}"},
        {"name": "noise", "source": f"tcp://127.0.0.1:{noise}"},
        {"name": "gone", "source": f"tcp://127.0.0.1:{gone}"},
    ]
    (tmp_path / "cameras.yaml").write_text(yaml.safe_dump({"cameras": listed}))
    parts = predicted(first, tmp_path / "p1"), predicted(second, tmp_path / "p2")
    told: list[dict] = []
    servers = [serve(first, port)]

    def tell(event: dict) -> None:
        told.append(event)
        died = event["camera"] == "hall" and event["kind"] == "lost" and event["type"] == "begin"
        if died and ends(told, camera="hall") and len(servers) == 1:
            servers.append(serve(second, port))
        if len(ends(told, camera="hall")) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    request = watch.WatchRequest(
        cameras=load(tmp_path / "cameras.yaml"), run="motion-scalar", threshold=THRESHOLD, out=tmp_path / "w",
        duration_s=90,
    )  # fmt: skip
    with pytest.raises(VadError, match=r"stopped by SIGTERM; open events were closed"):
        watch.run(request, tell=tell)
    for server in servers:
        server.wait(timeout=10)
    found = ends(told, camera="hall")
    np.testing.assert_allclose(found, [*parts[0], *parts[1]], atol=CLIP_S)
    lost = {
        name: [e for e in told if e["kind"] == "lost" and e["camera"] == name] for name in ("hall", "noise", "gone")
    }
    assert [e["type"] for e in lost["hall"]] == ["begin", "end"] * (len(lost["hall"]) // 2) and lost["hall"]
    assert [e["type"] for e in lost["noise"]] == ["begin", "end"] == [e["type"] for e in lost["gone"]]
    assert "Connection refused" in lost["gone"][0]["reason"]
    assert all(e["end"] for e in told if e["type"] == "end")
    assert "hush" not in (tmp_path / "w" / "events.jsonl").read_text()
    assert not ends(told, camera="noise")


@pytest.mark.real
@needs_ffmpeg
def test_real_clips_over_loopback_agree_with_predict(shared, tmp_path):
    """Surveillance clips of two seconds joined at 10 frames a second, served twice as fast as they are."""
    files = sorted((shared / "surv-fight" / "fight").glob("*.mp4"))[:6]
    files += sorted((shared / "surv-fight" / "noFight").glob("*.mp4"))[:6]
    from PIL import Image

    from pipelines.video.write import write_video

    def frames():
        for path in files:
            for frame in read_frames(path)[:40:2]:
                yield np.asarray(Image.fromarray(frame).resize((320, 240)))

    write_video(tmp_path / "joined.mp4", frames(), fps=10)
    result = predict(PredictRequest(source=tmp_path / "joined.mp4", run="motion-scalar", out=tmp_path / "p"))
    (one,) = result.predictions
    threshold = float(np.quantile([e.peak for e in one.events] or [one.peak], 0.5) * 0.9)
    again = PredictRequest(source=tmp_path / "joined.mp4", run="motion-scalar", threshold=threshold, out=tmp_path / "q")
    wanted = [(e.start_s, e.end_s) for e in predict(again).predictions[0].events]
    port = free_port()
    server = serve(tmp_path / "joined.mp4", port, speed=2)
    told: list[dict] = []

    def tell(event: dict) -> None:
        told.append(event)
        if event["kind"] == "lost" and event["type"] == "begin" and ends(told):
            os.kill(os.getpid(), signal.SIGTERM)

    request = watch.WatchRequest(
        cameras=choose(f"tcp://127.0.0.1:{port}"), run="motion-scalar", threshold=threshold, out=tmp_path / "w",
        duration_s=60,
    )  # fmt: skip
    with pytest.raises(VadError, match="SIGTERM"):
        watch.run(request, tell=tell)
    server.wait(timeout=10)
    assert wanted
    np.testing.assert_allclose(ends(told), wanted, atol=CLIP_S)


def test_masks_hide_what_happens_and_are_part_of_the_recipe(tmp_path):
    """Wild only in the right half; a mask over it, and the same camera without."""

    def half(count):
        for calm_, wild_ in zip(calm(count), wild(count), strict=True):
            calm_[:, 64:] = wild_[:, 64:]
            yield calm_

    path = footage(tmp_path / "half.mp4", (calm, 40), (half, 24), (calm, 40))
    mask = [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]
    (plain,) = choose(str(path))
    masked = plain.model_copy(update={"masks": type(plain).model_validate({**plain.model_dump(), "masks": mask}).masks})
    told, _ = watched((plain,), tmp_path / "a", threshold=0.02)
    told_masked, _ = watched((masked,), tmp_path / "b", threshold=0.02)
    assert len(ends(told)) == 1 and not ends(told_masked)
    scorer = LiveScorer(load_scorer("motion-scalar"), "cpu")
    assert told[0]["recipe"] == scorer.recipe_id(plain, 10)[:16] != scorer.recipe_id(masked, 10)[:16]


def test_black_and_frozen_pictures_are_events(tmp_path):
    still = next(calm(1))

    def frozen(count):
        return (still for _ in range(count))

    def black(count):
        return (np.zeros((96, 128, 3), np.uint8) for _ in range(count))

    path = footage(tmp_path / "x.mp4", (calm, 56), (black, 48), (calm, 56), (frozen, 160), (calm, 40))
    told, _ = watched(choose(str(path)), tmp_path / "w", threshold=0.9)
    ((start, end),) = ends(told, "black")
    assert abs(start - 5.6) <= CLIP_S and abs(end - 10.4) <= CLIP_S
    ((start, end),) = ends(told, "frozen")
    assert abs(start - 16.0) <= 2 * CLIP_S and abs(end - 32.0) <= CLIP_S
    assert (Path(told[0]["folder"]) / "snapshot.jpg").is_file()


def test_a_hanging_reader_takes_nobody_along(second, tmp_path, monkeypatch):
    """A named pipe that nobody writes to blocks its reader for ever, in a call that has no time limit."""
    monkeypatch.setattr(feed, "STALL_S", 1.5)
    os.mkfifo(tmp_path / "pipe.ts")
    (tmp_path / "cameras.yaml").write_text(
        yaml.safe_dump({"cameras": [{"name": "ok", "source": str(second)}, {"name": "hangs", "source": "pipe.ts"}]})
    )
    told, _ = watched(load(tmp_path / "cameras.yaml"), tmp_path / "w", duration_s=5.0)
    assert len(ends(told, camera="ok")) == 1
    lost = next(e for e in told if e["camera"] == "hangs")
    assert "hung" in lost["reason"]


def test_a_file_without_a_picture_and_one_that_is_no_video(first, tmp_path):
    media.audio_only(tmp_path / "sound.mp4")
    media.text_file(tmp_path / "text.mp4")
    with pytest.raises(VadError, match=r"has no video stream \(only sound\)"):
        watched(choose(str(tmp_path / "sound.mp4")), tmp_path / "w")[1].raise_for_failures()
    listed = [{"name": name, "source": str(path)} for name, path in
              (("good", first), ("text", tmp_path / "text.mp4"))]  # fmt: skip
    (tmp_path / "cameras.yaml").write_text(yaml.safe_dump({"cameras": listed}))
    told, result = watched(load(tmp_path / "cameras.yaml"), tmp_path / "w2")
    assert len(ends(told, camera="good")) == 2 and set(result.failures) == {"text"}
    with pytest.raises(PartialFailure, match="text: "):
        result.raise_for_failures()


def test_without_a_threshold_the_command_that_makes_one_is_named(first, tmp_path):
    with pytest.raises(MissingArtifactError) as caught:
        watched(choose(str(first)), tmp_path / "w", threshold=None)
    assert "vad calibrate" in caught.value.hint


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_closes_open_events_and_keeps_the_queue(tmp_path, number, code):
    """The footage ends inside an event and the file stays open to more; the receiver is down."""
    path = footage(tmp_path / "open.ts", (calm, 40), (wild, 60))
    os.utime(path)
    post = f"http://u:hush@127.0.0.1:{free_port()}/secret"
    process = start("watch", path, "--threshold", THRESHOLD, "--run", "motion-scalar", "--idle-s", 60, "--post", post,
                    "--json", cwd=tmp_path)  # fmt: skip
    try:
        begin = json.loads(process.stdout.readline())
        assert begin["type"] == "begin"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, err
    (end,) = [json.loads(line) for line in out.splitlines()]
    assert (end["type"], end["id"]) == ("end", begin["id"])
    assert "2 events wait in vad_watch/queue" in err and "hush" not in err + out and "secret" not in err
    assert len(list((tmp_path / "vad_watch" / "queue").glob("*.json"))) == 2


def test_a_program_hears_of_every_event(first, tmp_path):
    script = tmp_path / "hear.sh"
    script.write_text('#!/bin/sh\ncat >> "$1"\necho >> "$1"\n')
    script.chmod(0o755)
    told, _ = watched(choose(str(first)), tmp_path / "w", on_event=(str(script), str(tmp_path / "a b; c")))
    heard = [json.loads(line) for line in (tmp_path / "a b; c").read_text().splitlines()]
    assert heard == told and len(heard) == 4
    with pytest.raises(MissingArtifactError, match="there is no program 'no-such'"):
        watched(choose(str(first)), tmp_path / "w", on_event=("no-such",))


def test_two_hours_of_one_camera_to_alarms_in_five_commands(tmp_path):
    """The README's block as it stands, on two minutes instead of two hours; the live stream is a file that grows."""
    for folder in ("hall/normal", "night"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(4):
        footage(tmp_path / "hall" / "normal" / f"{number}.mp4", (partial(calm, seed=number), 300))
    footage(tmp_path / "night" / "0.mp4", (partial(calm, seed=7), 600))
    footage(tmp_path / "live.ts", (partial(calm, seed=9), 100), (wild, 30), (partial(calm, seed=9), 100))
    (tmp_path / "cameras.yaml").write_text(README["cameras.yaml"])
    commands = [shlex.split(line, comments=True) for line in README["five-commands"].splitlines()]
    assert len(commands) == 5 and all(words[0] == "vad" for words in commands)
    for words in commands:
        done = vad(*words[1:], cwd=tmp_path, HALL_URL=str(tmp_path / "live.ts"), timeout=200)
        assert done.returncode == 0, f"{words}\n{done.stderr}"
    lines = [json.loads(line) for line in (tmp_path / "vad_watch" / "events.jsonl").read_text().splitlines()]
    storm = max((e for e in lines if e["type"] == "end"), key=lambda e: e["peak"])
    assert storm["start_s"] < 11 and storm["end_s"] > 12 and storm["peak"] > 10 * storm["threshold"]
    assert lines[0]["scorer"] != "motion-scalar"
    (Path(tmp_path, storm["folder"]) / "false-alarm").touch()
    done = vad("data", "init", "vad_watch/events", "--json", cwd=tmp_path)
    assert done.returncode == 0 and "normal" in (tmp_path / "vad_watch" / "events" / "videos.csv").read_text()
