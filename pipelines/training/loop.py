"""The one training loop: phases, named losses, clipping, schedules, a stop that resumes to the same weights."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from pipelines.errors import Stopped, UsageError, VadError
from pipelines.methods._base import Fit, Method, OptimConfig, Phase
from pipelines.progress import Progress, Silent
from pipelines.training.bags import BatchSource
from pipelines.training.plateau import Plateau, mean_loss
from pipelines.training.trackers import Tracker

Precision = Literal["float32", "bf16"]
CTRL_C = 130
T = TypeVar("T")


class StopFlag:
    """Set by SIGTERM, SIGUSR2 (a batch system's warning) or the first Ctrl-C; the loop saves and stops after the step that runs."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def raise_stopped(self, where: str) -> None:
        """Raise Stopped for the signal that came (exit 75, or 130 after Ctrl-C)."""
        name = self.signal.name if self.signal else "a signal"
        raise Stopped(
            f"stopped by {name} {where}; everything is saved",
            hint="the same command goes on from here",
            exit_code=CTRL_C if self.signal == signal.SIGINT else None,
        )


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Within the block SIGTERM and Ctrl-C only set the flag; a second Ctrl-C interrupts at once.

    Outside the main thread no handler can be set, and the caller's own handling stays. Handlers are put back.
    """
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and flag.signal == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal = signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Session:
    """What surrounds the loop: device, logs, when to save and check, and the times it measured.

    `save(phase, step, optimizer, source)` writes the state with `step` steps of `phase` done (a closed-form step has one, and
    no optimiser). `check(done, method)` runs every `check_every` steps and after the last; it returns values to log, and
    True for "enough" (early stop). `held(phase)` gives the batches of held-out videos that a phase's `validate` is
    averaged over after each epoch; `plateau` belongs to the phase that runs.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    trackers: Sequence[Tracker] = ()
    save: Callable[[int, int, torch.optim.Optimizer | None, BatchSource], None] | None = None
    save_every: int = 500
    check: Callable[[int, Method], tuple[dict[str, float], bool]] | None = None
    check_every: int = 100
    held: Callable[[Phase], Iterable[Any]] | None = None
    plateau: Plateau | None = None
    log_every: int = 10
    stop: StopFlag = field(default_factory=StopFlag)
    progress: Progress = field(default_factory=Silent)
    data_s: float = 0.0
    step_s: float = 0.0

    @property
    def data_fraction(self) -> float:
        """Share of the training's time that went into making batches."""
        return self.data_s / self.step_s if self.step_s else 0.0


def train(
    method: Method,
    phases: Sequence[Phase | Fit],
    sources: Sequence[BatchSource],
    session: Session,
    *,
    resume: Mapping[str, Any] | None = None,
) -> int:
    """Run the phases in order and return the number of steps done over all of them.

    Args:
        resume: a saved state: `phase`, `step` (steps done in it), `optimizer`, `sampler`, `plateau`; weights and the
            generator's state are put back by the caller.

    Raises:
        VadError: a loss or gradient that is NaN or infinite; names the step, the terms and the videos.
        Stopped: a signal came; the state is saved.
    """
    done, enough = 0, False
    first = int(resume["phase"]) if resume else 0
    session.progress.start(sum(steps_of(phase) for phase in phases), "training", "steps")
    for index, (phase, source) in enumerate(zip(phases, sources, strict=True)):
        resumed = bool(resume) and index == first
        if index < first or enough or (isinstance(phase, Fit) and resumed):
            done += steps_of(phase) if index <= first else 0
            continue
        if isinstance(phase, Fit):
            _run_fit(method, phase, source, session, index=index)
            continue
        optimizer, start = make_optimizer(phase), 0
        c = phase.optim
        session.plateau = Plateau(patience=c.patience, gamma=c.gamma) if c.schedule == "plateau" else None
        if resume and resumed:
            start = int(resume["step"])
            optimizer.load_state_dict(resume["optimizer"])
            source.load_state_dict(resume["sampler"])
            if session.plateau is not None:
                session.plateau.load_state_dict(resume["plateau"])
        elif phase.before is not None:
            phase.before()
        session.progress.advance(start)
        reached, enough = _run_phase(method, phase, source, optimizer, session, index=index, start=start, offset=done)
        done += reached
    session.progress.finish()
    return done


def steps_of(phase: Phase | Fit) -> int:
    """Steps of a phase; a closed-form step has none."""
    return 0 if isinstance(phase, Fit) else phase.steps


def _run_fit(method: Method, fit: Fit, source: BatchSource, session: Session, *, index: int) -> None:
    """A closed-form step in eval mode; a signal between two batches stops it, and it begins again on resume."""
    method.eval()
    with torch.no_grad():
        fit.run(stoppable(source.every(), session.stop, fit.name))
    if session.save is not None:
        session.save(index, 1, None, source)


def stoppable(batches: Iterable[T], stop: StopFlag, name: str) -> Iterator[T]:
    """The same batches, until a signal came.

    Raises:
        Stopped: it came; what was trained before this step is saved.
    """
    for batch in batches:
        if stop.signal is not None:
            stop.raise_stopped(f"in {name!r}, which begins again")
        yield batch


def _run_phase(
    method: Method,
    phase: Phase,
    source: BatchSource,
    optimizer: torch.optim.Optimizer,
    session: Session,
    *,
    index: int,
    start: int,
    offset: int,
) -> tuple[int, bool]:
    """The loop itself, from step `start` of `phase`; steps done in the phase, and whether a check said enough."""
    factor = phase.schedule or schedule(phase.optim, phase.steps)
    epoch = source.epoch_steps if phase.validate is not None and session.held is not None else 0
    for step in range(start, phase.steps):
        began = time.perf_counter()
        bag = source.next(step=step, steps=phase.steps)  # x (B, K, S, D), mask (B, S), y (B,)
        loaded = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor(step) * (session.plateau.factor if session.plateau else 1.0)
        method.train()
        with torch.autocast(session.device.type, torch.bfloat16, enabled=session.precision == "bf16"):
            terms = phase.losses(bag)  # name -> scalar
        loss = torch.stack([term.float() for term in terms.values()]).sum()  # scalar
        _refuse_nonfinite(loss, terms, bag, phase, step)
        method.zero_grad(set_to_none=True)
        optimizer.zero_grad(set_to_none=True)  # parameters that live outside the method (a criterion's weights)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = _gradient_norm(optimizer, phase.optim.clip_norm)
        _refuse_nonfinite(norm, terms, bag, phase, step, what="the gradient")
        optimizer.step()
        if phase.after_step is not None:
            phase.after_step()
        session.data_s += loaded - began
        session.step_s += time.perf_counter() - began

        last = step + 1 == phase.steps
        values: dict[str, Any] = {}
        enough = False
        if session.check is not None and ((offset + step + 1) % session.check_every == 0 or last):
            values, enough = session.check(offset + step + 1, method)
        if epoch and ((step + 1) % epoch == 0 or last):
            values |= _validate(method, phase, session)
        if step % session.log_every == 0 or last or values:
            _log(session, offset + step + 1, phase, optimizer, loss, terms, norm, loaded - began, values)
        session.progress.advance()
        stopping = session.stop.signal is not None
        if session.save is not None and ((step + 1) % session.save_every == 0 or last or stopping or enough):
            session.save(index, step + 1, optimizer, source)
        if stopping:
            session.stop.raise_stopped(f"after step {step + 1} of {phase.steps} ({phase.name})")
        if enough:
            return step + 1, True
    return phase.steps, False


def _validate(method: Method, phase: Phase, session: Session) -> dict[str, float]:
    """The phase's loss on the held-out videos, which the plateau hears of; nothing without such videos."""
    assert phase.validate is not None and session.held is not None
    value = mean_loss(method, phase.validate, session.held(phase))
    if math.isnan(value):
        return {}
    if session.plateau is not None:
        session.plateau.update(value)
    return {"val_loss": value}


def make_optimizer(phase: Phase) -> torch.optim.Optimizer:
    """The optimiser of a phase; a group without its own `lr` or `weight_decay` takes the configuration's.

    Raises:
        UsageError: a phase without trainable parameters.
    """
    c = phase.optim
    groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in phase.parameters]
    groups = [{**group, "initial_lr": group.get("lr", c.lr)} for group in groups if group["params"]]
    if not groups:
        raise UsageError(f"the phase {phase.name!r} has no trainable parameters")
    match c.name:
        case "adam":
            return torch.optim.Adam(groups, lr=c.lr, weight_decay=c.weight_decay)
        case "adamw":
            return torch.optim.AdamW(groups, lr=c.lr, weight_decay=c.weight_decay)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=c.lr, weight_decay=c.weight_decay)
        case "sgd":
            return torch.optim.SGD(groups, lr=c.lr, weight_decay=c.weight_decay, momentum=c.momentum)


def schedule(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate at each step in [0, steps).

    `cosine` ends at 0; `step` multiplies by gamma at each milestone; `onecycle` rises from 1/25 to 1 over the first 30 %
    and falls to 1e-4/25 by cosines, torch's defaults; `plateau` is 1 here (training.plateau). `warmup` rises linearly
    before the others.
    """

    def after_warmup(step: int) -> float:
        done = (step - config.warmup) / max(1, steps - config.warmup)
        match config.schedule:
            case "constant" | "plateau":
                return 1.0
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * done))
            case "step":
                return config.gamma ** sum(step >= milestone for milestone in config.milestones)
            case "onecycle":
                return _onecycle(step, steps)

    return lambda step: (step + 1) / (config.warmup + 1) if step < config.warmup else after_warmup(step)


def _onecycle(step: int, steps: int) -> float:
    peak = 0.3 * steps - 1
    if step <= peak:
        return _between(1 / 25, 1.0, step / max(peak, 1e-9))
    return _between(1.0, 1e-4 / 25, (step - peak) / max(steps - 1 - peak, 1e-9))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, share)))


def _gradient_norm(optimizer: torch.optim.Optimizer, clip: float | None) -> Tensor:
    """Global L2 norm of the gradients, cut to `clip` in place where that is given; a scalar."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm


def _refuse_nonfinite(
    value: Tensor, terms: Mapping[str, Tensor], bag: Any, phase: Phase, step: int, *, what: str = "the loss"
) -> None:
    if bool(torch.isfinite(value)):
        return
    bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
    named = f" (term {', '.join(bad)})" if bad else f" (terms {', '.join(terms)} are finite)"
    raise VadError(
        f"step {step + 1} of phase {phase.name!r}: {what} is {value.item()}{named}; videos {_shorten(bag.video_ids)}",
        hint="a lower learning rate (--set optim.lr=...), gradient clipping (--set optim.clip_norm=1), or float32",
    )


def _shorten(ids: Sequence[str], most: int = 40) -> str:
    unique = list(dict.fromkeys(ids))
    return ", ".join(unique[:most]) + (f" and {len(unique) - most} more" if len(unique) > most else "")


def _log(
    session: Session,
    done: int,
    phase: Phase,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    terms: Mapping[str, Tensor],
    norm: Tensor,
    data_s: float,
    values: Mapping[str, Any],
) -> None:
    row: dict[str, Any] = {"phase": phase.name, "lr": float(optimizer.param_groups[0]["lr"]), "loss": loss.item()}
    row |= {name: term.item() for name, term in terms.items()}
    row |= {"grad_norm": norm.item(), "data_ms": round(1000 * data_s, 3), "data_fraction": session.data_fraction}
    row |= values
    for tracker in session.trackers:
        tracker.log(done, row)
