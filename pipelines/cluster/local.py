"""Several `vad` processes on this machine: a graph of commands, so many at a time, one GPU each where there are several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from pipelines.errors import Stopped

COMMAND = (sys.executable, "-m", "vadcli")
POLL_S = 0.05
STOPPED = (75, 130)
GRACE_S = 60.0  # what a command gets to drop its video or save its state before it is killed

State = Literal["done", "failed", "stopped", "not run"]


@dataclass(frozen=True, slots=True)
class Task:
    """A command to run once every task in `needs` is done. `name` is unique; `answer` takes its stdout."""

    name: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """What a task turned out to run: the words after `vad`, and the file that takes its stdout (None: ours)."""

    argv: tuple[str, ...]
    answer: Path | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: `code` is the exit code, None where it never ran."""

    name: str
    state: State
    code: int | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    slot: int
    launch: Launch
    started: float


def run(
    tasks: Sequence[Task],
    prepare: Callable[[str], Launch],
    *,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    accept: Callable[[str, int], bool] = lambda name, code: code == 0,
    begun: Callable[[str, Launch], None] = lambda name, launch: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, Outcome]:
    """Run every task, `workers` at a time; one that fails keeps those that need it from running, the others go on.

    `prepare(name)` is asked when the task's turn comes; `accept(name, code)` says whether it counts as done. SIGTERM
    and Ctrl-C reach every process, and all of them are waited for.

    Raises:
        Stopped: a signal came, or a task was stopped by one; finished tasks are kept.
    """
    outcomes: dict[str, Outcome] = {}
    running: dict[str, _Running] = {}
    gpus = visible_gpus()

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        ended(outcome)

    with _signals() as got:
        try:
            while len(outcomes) < len(tasks) and not got:
                _give_up(tasks, outcomes, running, settle)
                for task in _ready(tasks, outcomes, running)[: workers - len(running)]:
                    slot = min(set(range(workers)) - {one.slot for one in running.values()})
                    launch = prepare(task.name)
                    begun(task.name, launch)
                    running[task.name] = _start(launch, slot, gpus if workers > 1 else (), environment or {})
                for outcome in _finished(running, accept):
                    settle(outcome)
                if any(outcome.state == "stopped" for outcome in outcomes.values()):
                    break
                if running:
                    time.sleep(POLL_S)
        finally:
            _end(running)
    stopped = [outcome for outcome in outcomes.values() if outcome.state == "stopped"]
    if got or stopped:
        code = 130 if got[:1] == [signal.SIGINT] or any(outcome.code == 130 for outcome in stopped) else None
        raise Stopped("stopped by a signal", hint="what is finished is kept; the same command goes on", exit_code=code)
    return outcomes


def visible_gpus() -> tuple[str, ...]:
    """Names of the CUDA devices that a process may use, without importing torch: CUDA_VISIBLE_DEVICES, else /dev."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(word for word in named.split(",") if word.strip())
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted(found, key=int))


def read_answer(path: Path) -> dict[str, object] | None:
    """A step's --json answer; None where it is not there or not whole."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _ready(tasks: Sequence[Task], outcomes: Mapping[str, Outcome], running: Mapping[str, _Running]) -> list[Task]:
    done = {name for name, outcome in outcomes.items() if outcome.state == "done"}
    waiting = [task for task in tasks if task.name not in outcomes and task.name not in running]
    return [task for task in waiting if done.issuperset(task.needs)]


def _give_up(
    tasks: Sequence[Task],
    outcomes: Mapping[str, Outcome],
    running: Mapping[str, _Running],
    settle: Callable[[Outcome], None],
) -> None:
    """Tasks that need one that did not succeed never run."""
    for task in tasks:
        lost = [name for name in task.needs if name in outcomes and outcomes[name].state != "done"]
        if lost and task.name not in outcomes and task.name not in running:
            settle(Outcome(task.name, "not run"))


def _start(launch: Launch, slot: int, gpus: Sequence[str], changes: Mapping[str, str]) -> _Running:
    own = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
    out = launch.answer.open("wb") if launch.answer else None
    log = launch.log.open("ab") if launch.log else None
    try:
        process = subprocess.Popen(
            [*COMMAND, *launch.argv],
            stdin=subprocess.DEVNULL,
            stdout=out or log,
            stderr=log,
            env={**os.environ, **changes, **own},
        )
    finally:
        for handle in (out, log):
            if handle is not None:
                handle.close()
    return _Running(process, slot, launch, time.monotonic())


def _finished(running: dict[str, _Running], accept: Callable[[str, int], bool]) -> Iterator[Outcome]:
    for name, one in list(running.items()):
        code = one.process.poll()
        if code is not None:
            del running[name]
            state: State = "done" if accept(name, code) else "stopped" if code in STOPPED else "failed"
            yield Outcome(name, state, code, time.monotonic() - one.started)


def _end(running: Mapping[str, _Running]) -> None:
    """Ask every process to stop, wait for it, and kill what does not."""
    for one in running.values():
        one.process.terminate()
    deadline = time.monotonic() + GRACE_S
    for one in running.values():
        try:
            one.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGTERM, SIGUSR2 (a scheduler's warning) and Ctrl-C are only noted, in the list."""
    got: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        got.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield got
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
