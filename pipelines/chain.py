"""Stages put together. A chain is the only place where one stage's result becomes the next one's request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.progress import Progress, Silent

if TYPE_CHECKING:
    from pipelines.synthetic import Written

DEMO_METRICS = ("auc", "ap", "ano-auc", "video-auc")
FLOOR = "motion-scalar"
DEMO_ENCODER = "effnet:lite0+motion"
CACHE, RUNS = "vad_cache", "vad_runs"  # the default names, so that plain `vad` commands work inside the demo's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """The whole job on videos that are drawn here: where, how many, which method."""

    out: Path = Path("vad-demo")
    videos: int = 60
    seed: int = 0
    method: str = "mil-rank"
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
