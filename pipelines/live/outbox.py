"""A queue on disk in front of a receiver that may be down: what is queued survives any kind of death."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pipelines import artifacts
from pipelines.errors import UsageError
from pipelines.live.redact import host_only

WAITS_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # before each further try; the last one stays
TIMEOUT_S = 20.0
MOST_QUEUED = 10_000
AGAIN = frozenset({408, 425, 429})  # refusals that may pass; other 4xx never do
TYPES = {".jpg": "image/jpeg", ".mp4": "video/mp4"}


class Outbox:
    """Posts events one after the other, in order; an entry leaves the disk only when the receiver has it.

    The body is multipart/form-data: a field `event` (JSON), files `snapshot` and `clip` where there are any. Each
    carries an `Idempotency-Key`, because an answer can get lost. A receiver that refuses (4xx) gets the next one; what
    it refused is kept in `refused/`.

    Args:
        folder: where entries lie; what an earlier process left there is sent first.
        url: http or https; user and password in it become a header.
        say: told what a user should know, in lines without secrets.

    Raises:
        UsageError: another kind of URL.
    """

    def __init__(self, folder: Path, url: str, *, say: Callable[[str], None]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--post {host_only(url)}: give an http or https URL")
        host = parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]"
        place = f"{host}:{parts.port}" if parts.port else host
        self._url = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
        self._shown = host_only(url)
        self._headers = {"User-Agent": "vadcli"}
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._folder, self._say = folder, say
        folder.mkdir(parents=True, exist_ok=True)
        self._stop, self._news = threading.Event(), threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="post", daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, Any], files: Mapping[str, Path], *, wait_s: float = 0.0) -> None:
        """Queue an event; when this returns it is on the disk.

        A file that does not exist yet is waited for, at most `wait_s` seconds; then the event goes without it.
        """
        key = uuid.uuid4().hex
        entry = {
            "event": dict(event),
            "files": {name: str(path) for name, path in files.items()},
            "until": time.time() + wait_s,
            "key": key,
        }
        artifacts.write_text(self._folder / f"{time.time_ns()}-{key[:8]}.json", json.dumps(entry) + "\n")
        self._news.set()

    def waiting(self) -> list[Path]:
        """Entries that are not delivered, oldest first."""
        return sorted(path for path in self._folder.glob("*.json") if not path.name.startswith("."))

    def close(self, *, wait_s: float = 3.0) -> int:
        """Stop after at most `wait_s` seconds more; how many stay on the disk for the next time."""
        ends = time.monotonic() + wait_s
        while self.waiting() and not self._failing and time.monotonic() < ends:
            self._news.set()
            time.sleep(0.05)
        self._stop.set()
        self._news.set()
        self._thread.join(timeout=1.0)
        return len(self.waiting())

    def _work(self) -> None:
        tries = 0
        while not self._stop.is_set():
            self._news.clear()
            queue = self.waiting()
            self._make_room(queue)
            wait_s = self._next(queue[0]) if queue else 0.2
            if wait_s is None:  # delivered, or refused for good
                tries = 0
                continue
            failed = queue and self._failing
            tries = tries + 1 if failed else 0
            if failed:
                self._stop.wait(WAITS_S[min(tries, len(WAITS_S)) - 1])
            else:
                self._news.wait(wait_s)

    def _next(self, path: Path) -> float | None:
        """Deliver one entry: None when it is off the queue, else seconds to wait."""
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            files = {name: Path(file) for name, file in entry["files"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            self._say(f"the queue entry {path.name} cannot be read and is set aside: {error}")
            self._set_aside(path)
            return None
        if any(not file.is_file() for file in files.values()) and time.time() < entry["until"]:
            return 0.1
        body, kind = multipart(entry["event"], {name: file for name, file in files.items() if file.is_file()})
        headers = self._headers | {"Content-Type": kind, "Idempotency-Key": entry["key"]}
        refusal = self._post(body, headers)
        if refusal == "":
            path.unlink(missing_ok=True)
            if self._failing:
                self._say(f"{self._shown} answers again; {len(self.waiting())} events wait for it")
            self._failing = False
            return None
        if refusal.startswith("refused"):
            self._say(f"{self._shown} {refusal}: the event is kept in {path.parent / 'refused'}")
            self._set_aside(path)
            return None
        if not self._failing:
            self._say(f"{self._shown} {refusal}; events wait in {self._folder} and are sent again")
        self._failing = True
        return 0.0

    def _post(self, body: bytes, headers: Mapping[str, str]) -> str:
        """An empty string when it was taken, else why not."""
        request = urllib.request.Request(self._url, data=body, headers=dict(headers), method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
                answer.read()
            return ""
        except urllib.error.HTTPError as error:
            with error:
                final = 300 <= error.code < 500 and error.code not in AGAIN
            return f"{'refused' if final else 'failed'} with {error.code}"
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            return f"cannot be reached ({getattr(reason, 'strerror', None) or type(reason).__name__})"

    def _make_room(self, queue: list[Path]) -> None:
        for path in queue[: max(0, len(queue) - MOST_QUEUED)]:
            self._say(f"more than {MOST_QUEUED} events wait for {self._shown}: the oldest is given up")
            path.unlink(missing_ok=True)
            queue.remove(path)

    def _set_aside(self, path: Path) -> None:
        refused = self._folder / "refused"
        refused.mkdir(exist_ok=True)
        path.replace(refused / path.name)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: followed, it would drop the body or carry it elsewhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


def multipart(event: Mapping[str, Any], files: Mapping[str, Path]) -> tuple[bytes, str]:
    """(body, content type) of a form with the JSON field `event` and the files that can be read."""
    boundary = uuid.uuid4().hex
    parts = [("event", "", "application/json", json.dumps(event, ensure_ascii=False).encode())]
    for name, path in files.items():
        try:
            parts.append((name, path.name, TYPES.get(path.suffix, "application/octet-stream"), path.read_bytes()))
        except OSError:
            continue
    body = b""
    for name, filename, kind, content in parts:
        file = f'; filename="{filename}"' if filename else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\nContent-Type: {kind}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
