"""The queue in front of --post: order, a receiver that is down, refusals, files that come late, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.errors import UsageError
from pipelines.live import outbox
from pipelines.live.outbox import Outbox
from tests.live.streams import free_port, wait_for


class Receiver:
    """A loopback receiver that keeps what it is sent and answers as told."""

    def __init__(self, port: int = 0) -> None:
        self.taken: list[tuple[dict, bytes]] = []
        self.codes: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = receiver.codes.pop(0) if receiver.codes else 200
                if code == 200:
                    receiver.taken.append((dict(self.headers), body))
                self.send_response(code)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://eve:hush@127.0.0.1:{self.server.server_port}/in?x=1"

    def numbers(self) -> list[int]:
        return [int(body.split(b'"n": ')[1].split(b"}")[0]) for _, body in self.taken]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(outbox, "WAITS_S", (0.1, 0.2))


def test_events_arrive_in_order_with_their_files(tmp_path):
    receiver, said = Receiver(), []
    picture = tmp_path / "snapshot.jpg"
    box = Outbox(tmp_path / "queue", receiver.url, say=said.append)
    box.put({"n": 1}, {"snapshot": picture, "clip": tmp_path / "never.mp4"}, wait_s=1.0)
    box.put({"n": 2}, {})
    picture.write_bytes(b"JPEG")  # late, but in time
    wait_for(lambda: len(receiver.taken) == 2)
    assert box.close() == 0 and said == []
    headers, body = receiver.taken[0]
    assert b'name="snapshot"; filename="snapshot.jpg"' in body and b"JPEG" in body and b"never" not in body
    assert headers["Authorization"] == "Basic ZXZlOmh1c2g=" and headers["Idempotency-Key"]
    assert receiver.numbers() == [1, 2]


def test_a_receiver_that_is_down_loses_nothing_and_is_named_without_its_secrets(tmp_path):
    port, said = free_port(), []
    box = Outbox(tmp_path / "queue", f"http://eve:hush@127.0.0.1:{port}/T0/secret", say=said.append)
    for n in range(3):
        box.put({"n": n}, {})
    wait_for(lambda: said)
    assert len(box.waiting()) == 3
    receiver = Receiver(port)
    wait_for(lambda: len(receiver.taken) == 3)
    box.close()
    assert receiver.numbers() == [0, 1, 2]
    assert len(said) == 2 and "cannot be reached" in said[0] and "answers again" in said[1]
    assert not any("hush" in line or "secret" in line for line in said)


def test_what_is_refused_steps_aside_and_what_may_pass_is_tried_again(tmp_path):
    receiver, said = Receiver(), []
    receiver.codes = [400, 503, 429]
    box = Outbox(tmp_path / "queue", receiver.url, say=said.append)
    for n in range(3):
        box.put({"n": n}, {})
    wait_for(lambda: len(receiver.taken) == 2)
    box.close()
    assert receiver.numbers() == [1, 2]
    (kept,) = (tmp_path / "queue" / "refused").iterdir()
    assert json.loads(kept.read_text())["event"] == {"n": 0}


def test_kill_9_loses_nothing_that_was_queued(tmp_path):
    """Another process queues for a receiver that is down and is killed; the next one delivers."""
    port = free_port()
    code = (
        "import sys, time; from pathlib import Path; from pipelines.live.outbox import Outbox\n"
        f"box = Outbox(Path({str(tmp_path / 'queue')!r}), 'http://127.0.0.1:{port}/', say=lambda line: None)\n"
        "for n in range(20): box.put({'n': n}, {}); print(n, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(13)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    receiver = Receiver(port)
    box = Outbox(tmp_path / "queue", f"http://127.0.0.1:{port}/", say=lambda line: None)
    wait_for(lambda: not box.waiting())
    box.close()
    assert set(told) <= set(receiver.numbers()) and receiver.numbers() == sorted(receiver.numbers())


def test_a_damaged_entry_is_set_aside(tmp_path):
    receiver, said = Receiver(), []
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "1.json").write_text("{")
    box = Outbox(tmp_path / "queue", receiver.url, say=said.append)
    box.put({"n": 7}, {})
    wait_for(lambda: receiver.taken)
    box.close()
    assert "1.json cannot be read" in said[0]


def test_only_http_is_posted_to(tmp_path):
    with pytest.raises(UsageError, match=r"--post ftp://h/\*\*\*: give an http"):
        Outbox(tmp_path, "ftp://u:p@h/secret", say=lambda line: None)
