"""The one output sink. stdout is the answer (human or one JSON object); stderr is progress, notes, warnings, errors."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import typer

HEARTBEAT_S = 60.0
MIN_WIDTH, MAX_WIDTH, NARROW = 32, 100, 60
BOLD, DIM, CYAN, RED, YELLOW, RESET = "\033[1m", "\033[2m", "\033[36m", "\033[31m", "\033[33m", "\033[0m"


class Mode(StrEnum):
    """How the answer is given."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options, kept in `ctx.obj`."""

    debug: bool = False
    quiet: bool = False


class Console:
    """What a command talks to: `table`, `text`, `json` for the answer, `progress`, `note`, `warn` for the rest.

    In JSON mode `table` and `text` are silent and `json` prints; in the other modes it is the other way round, so that a command
    calls both and each user gets one of them.
    """

    def __init__(self, mode: Mode = Mode.HUMAN) -> None:
        self.mode = mode
        self.progress = Reporter(quiet=mode is Mode.QUIET)

    @classmethod
    def of(cls, ctx: typer.Context, *, json: bool = False) -> Console:
        """The console of a command: `json` is its --json, quiet comes from the global options."""
        settings = ctx.find_object(Settings) or Settings()
        made = cls(Mode.JSON if json else Mode.QUIET if settings.quiet else Mode.HUMAN)
        made.progress.quiet = settings.quiet
        ctx.call_on_close(made.progress.close)  # an error's message stands below the bar, and the cursor comes back
        return made

    def text(self, message: str = "") -> None:
        """A line of the answer."""
        if self.mode is not Mode.JSON:
            out(message + "\n")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """An aligned table with numbers to the right; the whole text off a tty, fitted to the terminal on one."""
        if self.mode is not Mode.JSON:
            out(render_table(title, columns, [[cell(value) for value in row] for row in rows]))

    def json(self, value: Mapping[str, Any]) -> None:
        """The answer as one JSON object with "schema": 1; NaN and infinite numbers become null, paths strings."""
        if self.mode is Mode.JSON:
            out(json.dumps({"schema": 1} | plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def line(self, value: Mapping[str, Any]) -> None:
        """One of many answers, in JSON mode: an object on a line of its own, written at once."""
        if self.mode is Mode.JSON:
            out(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n")

    def note(self, message: str) -> None:
        """A line worth reading on stderr, not in quiet mode."""
        self.progress.note(message)

    def warn(self, message: str) -> None:
        """A warning on stderr, in every mode."""
        self.progress.warn(message)


@dataclass
class _Task:
    what: str
    unit: str
    total: int | None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """`extract: 12/60 videos (20 %), 3.1/s, 0:16 left`."""
        elapsed = max(time.monotonic() - self.started, 1e-6)
        rate = self.done / elapsed
        share = f"/{self.total} {self.unit} ({100 * self.done // self.total} %)" if self.total else f" {self.unit}"
        left = f", {_clock((self.total - self.done) / rate)} left" if self.total and rate else ""
        return f"{self.what}: {self.done}{share}, {_rate(rate, self.unit)}, {_clock(elapsed)} so far{left}"


class Reporter:
    """A pipelines.progress.Progress on stderr: a Rich bar with ETA on a tty, one line a minute off it."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._task: _Task | None = None
        self._bar: Any = None
        self._bar_task: Any = None
        self._beat: threading.Event | None = None
        self._lock = threading.Lock()

    def start(self, total: int | None, what: str, unit: str = "videos") -> None:
        """Begin a task; an unfinished one is closed first."""
        self.finish()
        self._task = _Task(what, unit, total)
        if self.quiet:
            return
        if is_rich_terminal(sys.stderr):
            self._open_bar(self._task)
        else:
            err(f"{what}: {total} {unit}\n" if total is not None else f"{what}\n")
            self._beat = threading.Event()
            threading.Thread(target=self._heartbeat, args=(self._beat,), daemon=True).start()

    def advance(self, count: int = 1) -> None:
        """`count` units are done."""
        if self._task is None:
            return
        self._task.done += count
        if self._bar is not None:
            self._bar.update(self._bar_task, advance=count)

    def note(self, message: str) -> None:
        """One line, above the bar when there is one."""
        if not self.quiet:
            self._line(message)

    def warn(self, message: str) -> None:
        """One line that may change a number, in every mode."""
        self._line(f"{paint('warning:', YELLOW, sys.stderr)} {message}")

    def close(self) -> None:
        """Take the bar away and stop the heartbeat, whatever is done; for the end of a command."""
        self._task = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._beat is not None:
            self._beat.set()
            self._beat = None

    def finish(self) -> None:
        """Close the task: the bar goes, one line says what was done and how long it took."""
        task = self._task
        self.close()
        if task is not None and not self.quiet:
            err(f"{task.what}: {task.done} {task.unit} in {_clock(time.monotonic() - task.started)}\n")

    def _line(self, message: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)
            else:
                err(message + "\n")

    def _heartbeat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            if self._task is not None:
                self._line(self._task.line())

    def _open_bar(self, task: _Task) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(task.unit),
        ]
        times = [TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn()]
        self._bar = Progress(*columns, *times, console=RichConsole(stderr=True), transient=True)
        self._bar_task = self._bar.add_task(task.what, total=task.total)
        self._bar.start()


def error(message: str, *, hint: str = "") -> None:
    """An error in words and what to type next, on stderr."""
    err(f"{paint('error:', RED, sys.stderr)} {message}\n")
    if hint:
        err(f"{paint('hint:', CYAN, sys.stderr)}  {hint}\n")


def error_text(text: str) -> None:
    """Plain text on stderr (tracebacks)."""
    err(text)


def out(text: str) -> None:
    """Write to stdout; a reader that went away (`| head`) ends the output, not the work."""
    _write(sys.stdout, text)


def err(text: str) -> None:
    """Write to stderr under the same rule."""
    _write(sys.stderr, text)


def flush() -> None:
    """Flush both streams at the end of the program, quietly when nobody reads any more."""
    _write(sys.stdout, "")
    _write(sys.stderr, "")


def is_rich_terminal(stream: TextIO) -> bool:
    """Whether a live bar makes sense: a tty that is not dumb and not very narrow."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and width() >= MIN_WIDTH


def width() -> int:
    """Columns of the terminal (80 where there is none)."""
    return shutil.get_terminal_size((80, 24)).columns


def paint(text: str, style: str, stream: TextIO) -> str:
    """`text` in a colour where the stream is a colour terminal and NO_COLOR is not set."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return f"{style}{text}{RESET}" if coloured else text


def cell(value: object) -> str:
    """One value of a table: floats with 4 digits (fractions of 1 keep theirs), None as `-`."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}" if math.isfinite(value) else "-"
        case _:
            return str(value)


def plain(value: Any) -> Any:
    """`value` in JSON's own types: paths and enums as strings, tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as text; on a tty the widest column gives way until the lines fit."""
    widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)] if columns else []
    if sys.stdout.isatty():
        _shrink(widths, width() - 2 * max(len(widths) - 1, 0))
    right = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    heading = [paint(title, BOLD, sys.stdout)] if title else []
    header = paint(_row(columns, widths, right), BOLD, sys.stdout)
    rule = paint("  ".join("-" * w for w in widths), DIM, sys.stdout)
    return "\n".join([*heading, header, rule, *(_row(row, widths, right) for row in rows)]) + "\n"


def panels(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Titled panels of (name, explanation) rows; plain indented lists where the terminal is narrow or has no lines."""
    columns = min(width(), MAX_WIDTH)
    boxed = columns >= NARROW and _can_encode("╭─│╰╯╮")
    return "".join(_panel(title, rows, columns, boxed=boxed) for title, rows in sections)


def _panel(title: str, rows: Sequence[tuple[str, str]], columns: int, *, boxed: bool) -> str:
    import textwrap

    left = max(8, *(len(name) for name, _ in rows))
    room = max(columns - left - (6 if boxed else 4), 16)
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, room) or [""]
        first = paint(name.ljust(left), BOLD + CYAN, sys.stdout)
        lines += [f"{first}  {wrapped[0].ljust(room)}"] + [f"{'':{left}}  {line.ljust(room)}" for line in wrapped[1:]]
    if not boxed:
        return paint(title, BOLD, sys.stdout) + "\n" + "".join(f"  {line.rstrip()}\n" for line in lines) + "\n"
    edge = paint("│", DIM, sys.stdout)
    top = paint(f"╭─ {title} " + "─" * (columns - len(title) - 5) + "╮", DIM, sys.stdout)
    bottom = paint("╰" + "─" * (columns - 2) + "╯", DIM, sys.stdout)
    return "\n".join([top, *(f"{edge} {line} {edge}" for line in lines), bottom]) + "\n"


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        # the descriptor is pointed elsewhere so that the interpreter's own last flush stays silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shrink(widths: list[int], room: int) -> None:
    while widths and sum(widths) > room and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    fitted = [text if len(text) <= w else text[: max(w - 1, 0)] + "…" for text, w in zip(cells, widths, strict=True)]
    aligned = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(fitted, widths, right, strict=True)]
    return "  ".join(aligned).rstrip()


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("-", "", 1).replace(",", "").rstrip("%").strip().isdigit()


def _can_encode(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _rate(rate: float, unit: str) -> str:
    return f"{rate:.1f} {unit}/s" if rate >= 1 or rate == 0 else f"{rate * 60:.1f} {unit}/min"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
