"""Stages put together. A chain is the only place where one stage's result becomes the next one's request."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import artifacts
from pipelines.cluster import local
from pipelines.errors import VadError
from pipelines.progress import Progress, Silent

if TYPE_CHECKING:
    from pipelines.cluster.recipes import Recipe
    from pipelines.synthetic import Written

DEMO_METHOD = "fine-vad"
DEMO_METRICS = ("all",)  # whatever the method can answer: one without class scores leaves map-iou null, with its reason
FLOOR = "motion-scalar"
DEMO_ENCODER = "effnet:lite0+motion"
CACHE, RUNS = "vad_cache", "vad_runs"  # the default names, so that plain `vad` commands work inside the demo's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """The whole job on videos that are drawn here: where, how many, which method."""

    out: Path = Path("vad-demo")
    videos: int = 60
    seed: int = 0
    method: str = DEMO_METHOD
    encoder: str = DEMO_ENCODER
    device: str = "auto"
    sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo leaves: metrics.json of the run and of the floor (how much moves), folders, pictures, seconds."""

    folder: Path
    dataset: str
    run: Path
    evaluation: Path
    metrics: dict[str, Any]
    floor: dict[str, Any]
    pictures: tuple[Path, ...]
    seconds: dict[str, float] = field(default_factory=dict)


def demo(request: DemoRequest, *, progress: Progress = Silent()) -> DemoResult:
    """Write videos, extract, train and evaluate below one folder; what is there already is kept.

    Raises:
        UsageError: the folder holds another demo.
        MissingArtifactError: the embedded encoder's weights are not installed (the hint has the command).
    """
    from pipelines import synthetic

    clock = _Clock(progress)
    with clock.step("videos", f"1/4  {request.videos} videos of moving figures, six anomaly classes -> {request.out}"):
        written = synthetic.write(request.out, videos=request.videos, seed=request.seed, progress=progress)
    with clock.step(
        "extract", f"2/4  features, once: {request.encoder}, clips of 8 frames (vad extract {written.dataset})"
    ):
        _extract(request, written, progress)
    how = f"vad train --method {request.method}"
    with clock.step("train", f"3/4  {request.method} learns from video labels alone ({how})"):
        base = _train(request, FLOOR, written, progress)  # first, so that `latest` is the method's run
        run = _train(request, request.method, written, progress)
    how = f"vad eval --metric {','.join(DEMO_METRICS)} --by class"
    with clock.step("eval", f"4/4  scores against the true intervals ({how})"):
        _, floor = _evaluate(request, written, base, progress)
        folder, metrics = _evaluate(request, written, run, progress)
    pictures = tuple(sorted((folder / "plots").rglob("*.png")))
    return DemoResult(request.out, written.dataset, run, folder, metrics, floor, pictures, clock.seconds)


def _extract(request: DemoRequest, written: Written, progress: Progress) -> None:
    from pipelines import extract
    from pipelines.data.manifest import load
    from pipelines.extraction.plan import Sampling

    dataset = load(written.manifest).dataset(written.dataset)
    result = extract.run(
        extract.ExtractRequest(
            dataset=dataset,
            layers=(request.out.absolute() / CACHE,),
            encoders=(request.encoder,),
            sampling=Sampling(dataset.clip_len, dataset.stride),
            device=request.device,
        ),
        progress=progress,
    )
    result.raise_for_failures()


def _train(request: DemoRequest, method: str, written: Written, progress: Progress) -> Path:
    from pipelines import train

    result = train.run(
        train.TrainRequest(
            method=method,
            dataset=written.dataset,
            features=request.encoder,
            seed=request.seed,
            sets=request.sets if method == request.method else (),
            device=request.device,
            manifest=written.manifest,
            cache_dir=request.out / CACHE,
            runs_dir=request.out / RUNS,
        ),
        progress=progress,
    )
    return result.runs[0].folder


def _evaluate(request: DemoRequest, written: Written, run: Path, progress: Progress) -> tuple[Path, dict[str, Any]]:
    from pipelines import evaluate
    from pipelines.scoring.protocol import Protocol

    result = evaluate.run(
        evaluate.EvalRequest(
            run=str(run),
            metrics=DEMO_METRICS,
            protocol=Protocol(by=("class",)),
            manifest=written.manifest,
            cache_dir=str(request.out / CACHE),
            runs_dir=request.out / RUNS,
        ),
        progress=progress,
    )
    return result.evals[0].folder, result.evals[0].metrics


class _Clock:
    """Says what a step is before it starts and keeps how long it took."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        self._progress.note(what)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


ANSWERED = ("extract", "train")  # their --json answer is kept for later steps and told in one line
RECIPES = "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A recipe to run on this machine.

    `runs` is the runs folder, below which answers are kept; `only` names steps (what they need counts as done);
    `workers` steps run at once; an extraction with at most `max_failed` failed videos counts as done; `environment`
    is what every command gets; `extra` words go behind every command. `answers="all"` keeps every step's stdout as a
    --json answer, so that nothing but ours reaches stdout.
    """

    recipe: Recipe
    runs: Path
    only: tuple[str, ...] = ()
    workers: int = 1
    max_failed: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    answers: Literal["needed", "all"] = "needed"


@dataclass(frozen=True, slots=True)
class StepDone:
    """What became of a step: its whole command, how it ended, its answer where it gives one."""

    name: str
    argv: tuple[str, ...]
    state: local.State
    code: int | None
    seconds: float
    answer: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """The folder that keeps the steps' answers, and every step in the order of the recipe."""

    folder: Path
    steps: tuple[StepDone, ...]

    def raise_for_failures(self) -> None:
        """Raise VadError where a step did not end well.

        Raises:
            VadError: with the exit code of the first step that failed.
        """
        bad = [step for step in self.steps if step.state != "done"]
        if bad:
            failed = [step for step in bad if step.state == "failed"]
            lines = [f"{step.name}: " + (f"exit {step.code}" if step.code is not None else step.state) for step in bad]
            raise VadError(
                f"{len(bad)} of {len(self.steps)} steps are not done:\n  " + "\n  ".join(lines),
                hint="its own message is above; the same command goes on from there",
                exit_code=next((step.code for step in failed if step.code and step.code > 0), 1),
            )


def state_folder(recipe: Recipe, runs: Path) -> Path:
    """Where a recipe's answers and logs are kept: `<runs>/recipes/<name>-<id8>`; other variables, another folder."""
    return runs / RECIPES / f"{recipe.name}-{recipe.id[:8]}"


def run(request: RunRequest, *, progress: Progress = Silent()) -> RunResult:
    """Run the recipe's commands, each once what it needs is done. Every command skips what exists already.

    Raises:
        Stopped: a signal came; what is finished is kept and the same request goes on.
    """
    recipe = request.recipe
    for name in request.only:
        recipe.step(name)
    steps = [step for step in recipe.steps if not request.only or step.name in request.only]
    chosen = {step.name for step in steps}
    folder = state_folder(recipe, request.runs)
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    referenced = {one.partition(".")[0] for step in recipe.steps for one in step.references}
    launches: dict[str, local.Launch] = {}

    def prepare(name: str) -> local.Launch:
        step = recipe.step(name)
        argv = (*step.filled(answers(recipe, request.runs)), *request.extra)
        if request.answers == "needed" and argv[0] not in ANSWERED and name not in referenced:
            return local.Launch(argv)
        return local.Launch((*argv, *(() if "--json" in argv else ("--json",))), folder / f".{name}-{os.getpid()}.json")

    def begun(name: str, launch: local.Launch) -> None:
        launches[name] = launch
        progress.note(f"[{name}] vad {shlex.join(launch.argv)}")

    def ended(outcome: local.Outcome) -> None:
        launch = launches.get(outcome.name)
        if launch is not None:
            _keep(launch.answer, folder / "steps" / f"{outcome.name}.json", outcome)
        progress.note(f"[{outcome.name}] {_told(outcome, answer_of(folder, outcome.name))}")

    def accept(name: str, code: int) -> bool:
        answer = launches[name].answer
        return code == 0 or (code == 3 and answer is not None and n_failed(answer) <= request.max_failed)

    outcomes = local.run(
        [local.Task(step.name, tuple(name for name in step.needs if name in chosen)) for step in steps],
        prepare,
        workers=request.workers,
        environment=request.environment,
        accept=accept,
        begun=begun,
        ended=ended,
    )
    found = [(outcomes[step.name], launches.get(step.name)) for step in steps]
    done = [
        StepDone(o.name, at.argv if at else recipe.step(o.name).argv, o.state, o.code, round(o.seconds, 2), answer_of(folder, o.name))
        for o, at in found
    ]  # fmt: skip
    return RunResult(folder, tuple(done))


def answers(recipe: Recipe, runs: Path) -> dict[str, dict[str, Any]]:
    """The kept answer of every step that has one."""
    folder = state_folder(recipe, runs)
    found = {step.name: answer_of(folder, step.name) for step in recipe.steps}
    return {name: answer for name, answer in found.items() if answer is not None}


def answer_of(folder: Path, step: str) -> dict[str, Any] | None:
    """The kept answer of one step."""
    return local.read_answer(folder / "steps" / f"{step}.json")


def n_failed(answer: Path) -> int:
    """How many videos an extraction's answer names as failed; more than any limit where it cannot be read."""
    failures = (local.read_answer(answer) or {}).get("failures")
    return len(failures) if isinstance(failures, dict) else sys.maxsize


def _keep(answer: Path | None, final: Path, outcome: local.Outcome) -> None:
    """Keep a finished step's answer, or a bare mark that it is done."""
    if outcome.state != "done":
        if answer is not None:
            answer.unlink(missing_ok=True)
    elif answer is None:
        artifacts.write_text(final, '{"schema": 1}\n')
    else:
        os.replace(answer, final)


def _told(outcome: local.Outcome, answer: Mapping[str, Any] | None) -> str:
    """One line of what a step did."""
    if outcome.state != "done" or answer is None:
        how = f"exit {outcome.code}" if outcome.code else ""
        return f"{outcome.state} {how}".strip() + (f" in {outcome.seconds:.1f} s" if outcome.code is not None else "")
    if "group" in answer:
        states = [str(one["status"]) for one in answer["runs"]]
        counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"{counted}: {answer['group']}"
    if "artifacts" in answer:
        new = sum(len(one["done"]) for one in answer["artifacts"])
        return f"{new} new, {len(answer.get('failures') or {})} failed: {', '.join(one['folder'] for one in answer['artifacts'])}"
    return f"done in {outcome.seconds:.1f} s"
