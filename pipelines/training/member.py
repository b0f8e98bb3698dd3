"""Training one run: build, read features, loop, choose weights, learn thresholds, write the artefact last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from pipelines import artifacts
from pipelines.errors import VadError
from pipelines.methods._base import Fit, Method, Phase, Resources, Shape
from pipelines.progress import Progress
from pipelines.records import Video, VideoTruth
from pipelines.store.features import FeatureStore
from pipelines.training.bags import BatchSource, abnormal
from pipelines.training.checkpoint import (
    CONFIG,
    RUN,
    STATE,
    WEIGHTS,
    load_state,
    put_weights,
    save_state,
    save_weights,
)
from pipelines.training.group import Member, is_begun, only_one
from pipelines.training.loop import Precision, Session, StopFlag, steps_of, stoppable, train
from pipelines.training.material import Material, material
from pipelines.training.select import (
    QUANTILE,
    QUANTILES,
    Keeper,
    SelectionConfig,
    frame_measure,
    learn_thresholds,
    video_measure,
)
from pipelines.training.trackers import open_trackers

STATE_FORMAT = 1
FRAME_SIGMA = 3  # of the smoothed threshold of methods that score single frames; the field's width on Ped2 and Avenue


@dataclass(frozen=True, slots=True)
class MemberJob:
    """One run to train, everything resolved. `truth(video, n_frames)` is asked for frame-level selection alone."""

    folder: Path
    member: Member
    method: str
    module: ModuleType
    config: Any
    shape: Shape
    resources: Resources
    streams: tuple[tuple[FeatureStore, ...], ...]
    train: tuple[Video, ...]
    held: tuple[Video, ...]
    truth: Callable[[Video, int], VideoTruth]
    selection: SelectionConfig
    precision: Precision
    device: str
    save_every: int
    kind: str = "features"
    method_file: str | None = None
    unseen: tuple[
        Video, ...
    ] = ()  # normal videos outside training; plateau and thresholds look there where there are any
    inputs: Mapping[str, str] = field(default_factory=dict)  # ids of further artefacts it is made from, by role


def train_member(job: MemberJob, *, progress: Progress, flag: StopFlag) -> None:
    """Train the run into its folder, going on from a saved state where there is one. artifact.json is written last.

    Raises:
        Stopped: a signal came; everything is saved.
        VadError: a NaN, damaged features, a state of another run.
    """
    with only_one(job.folder), deterministic(job.member.seed, job.device):
        began = time.monotonic()
        state = load_state(job.folder / STATE, run_id=job.member.id) if is_begun(job.folder) else None
        artifacts.write_text(job.folder / CONFIG, yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False))
        method: Method = job.module.build(job.config, job.shape, job.resources).to(job.device)
        for note in method.notes:
            progress.note(note)
        data = material(
            job.kind,
            job.streams,
            job.shape,
            job.config.data,
            device=job.device,
            captions=job.resources.extras.get("captions", ()),
            unseen=job.unseen,
        )
        data.start(job.train, state, job.folder / STATE)
        keeper = _keeper(job, data)
        facts = _optimise(job, method, data, keeper, state, progress, flag)
        if keeper is not None and keeper.best is not None:
            method.load_state_dict(keeper.weights)
        _write(job, method, data, facts | _selected(keeper, facts), began)


@contextmanager
def deterministic(seed: int, device: str) -> Iterator[None]:
    """Seed torch's global generator and, on the CPU, ask for deterministic kernels; both are as before afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(before or device == "cpu", warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _optimise(
    job: MemberJob,
    method: Method,
    data: Material,
    keeper: Keeper | None,
    state: dict[str, Any] | None,
    progress: Progress,
    flag: StopFlag,
) -> dict[str, Any]:
    """Phases, or a closed-form fit; facts to record."""
    phases = list(method.phases())
    if state is None:  # a stopped run brings what was fitted with its weights
        method.fit(lambda: stoppable(data.every(job.train), flag, "fitting"))
    if not phases:
        return {"steps": 0}
    sources = data.sources(phases, job.train, seed=job.member.seed, pseudo=job.resources.pseudo)
    phases = [in_steps(phase, source) for phase, source in zip(phases, sources, strict=True)]
    session = Session(
        device=torch.device(job.device),
        precision=job.precision,
        check=keeper,
        check_every=job.selection.every,
        held=(lambda phase: data.held(phase, job.unseen)) if job.unseen else None,
        save_every=job.save_every,
        stop=flag,
        progress=progress,
    )

    def save(phase: int, step: int, optimizer: torch.optim.Optimizer | None, source: BatchSource) -> None:
        save_state(
            job.folder / STATE,
            {
                "format": STATE_FORMAT,
                "run_id": job.member.id,
                "phase": phase,
                "step": step,
                "done": sum(map(steps_of, phases[:phase])) + min(step, steps_of(phases[phase])),
                "weights": method.state_dict(),
                "inputs": data.inputs.state_dict(),
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "plateau": session.plateau.state_dict() if session.plateau is not None else None,
                "sampler": source.state_dict(),
                "rng": _rng(job.device),
                "keeper": keeper.state_dict() if keeper else None,
                "times": [session.data_s, session.step_s],
            },
        )

    session.save = save
    if state is not None:
        put_weights(method, state["weights"], where=job.folder / STATE)
        session.data_s, session.step_s = state["times"]
        if keeper is not None:
            keeper.load_state_dict(state["keeper"])
    session.trackers = open_trackers(job.folder, upto=int(state["done"]) if state else 0)
    if state is not None:
        _set_rng(state["rng"], job.device)
    try:
        stopped_early = keeper is not None and state is not None and keeper.exhausted
        done = int(state["done"]) if state and stopped_early else train(method, phases, sources, session, resume=state)
    finally:
        for tracker in session.trackers:
            tracker.close()
    return {"steps": done, "data_time_fraction": round(session.data_fraction, 5), "train_s": round(session.step_s, 2)}


def in_steps(phase: Phase | Fit, source: BatchSource) -> Phase | Fit:
    """The phase with its epochs as steps of its batch source."""
    if isinstance(phase, Fit) or phase.epochs is None:
        return phase
    return replace(phase, steps=max(1, round(phase.epochs * source.epoch_steps)))


def _keeper(job: MemberJob, data: Material) -> Keeper | None:
    if job.selection.mode == "last":
        return None
    name = "test" if job.selection.mode == "best-on-test" else "val"
    if job.selection.metric == "frame-auc":
        return Keeper(frame_measure(data, job.held, job.truth), f"{name}_frame_auc", job.selection)
    bad = abnormal(job.held, job.shape.classes).tolist()
    return Keeper(video_measure(data, job.held, bad), f"{name}_video_auc", job.selection)


def _selected(keeper: Keeper | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    if keeper is None or keeper.best is None:
        return {"best_step": facts["steps"]}
    return {"best_step": keeper.best_step, "selection_metric": keeper.name, "selection_value": keeper.best}


def _write(job: MemberJob, method: Method, data: Material, facts: Mapping[str, Any], began: float) -> None:
    """Weights, thresholds, then artifact.json."""
    broken = [k for k, v in method.state_dict().items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise VadError(
            f"training ended with NaN or infinite weights in {', '.join(broken[:5])}", hint="a lower learning rate"
        )
    save_weights(job.folder / WEIGHTS, method, data.inputs, job.resources, name=job.method)
    fitted = [v.id for v, bad in zip(job.train, abnormal(job.train, job.shape.classes), strict=True) if not bad]
    normal = [video.id for video in job.unseen] or fitted
    filters = ("none", f"gaussian:{job.shape.stride if job.shape.stride > 1 else FRAME_SIGMA}")
    theta = float(getattr(job.config, "theta_quantile", QUANTILE))
    thresholds = learn_thresholds(method, data, normal, filters=filters, quantiles=sorted({*QUANTILES, theta}))
    needs = [
        {**need, "recipe": stack[0].artifact.recipe, "kind": stack[0].artifact.kind}
        for need, stack in zip(job.member.recipe["features"], job.streams, strict=True)
    ]
    recorded: dict[str, Any] = {
        **facts,
        "features": needs,
        "feature_folders": [str(stack[0].folder) for stack in job.streams],
        "thresholds": thresholds.get("none", {}),
        "threshold_smooth": "none",
        "threshold_quantile": theta,
        "thresholds_smoothed": {text: found for text, found in thresholds.items() if text != "none"},
        "thresholds_from": f"frame scores of {len(normal)} normal {_where(job.unseen)} videos",
        "unseen": [video.id for video in job.unseen],
        "held": [video.id for video in job.held],
        "device": job.device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 2),
        "complexity": method.complexity(1),
        "expand": method.expand,
        "method_file": job.method_file,
        "swept": dict(job.member.swept),
    }
    artifact = artifacts.make(
        RUN,
        job.member.id,
        job.member.recipe,
        inputs={f"features:{need['stream']}": str(need["id"]) for need in needs} | dict(job.inputs),
        recorded=recorded,
        counts={"train": len(job.train), "held": len(job.held), "steps": int(facts["steps"])},
    )
    artifacts.write(job.folder, artifact)


def _where(unseen: tuple[Video, ...]) -> str:
    """What the videos that thresholds were learnt on are called."""
    if not unseen:
        return "training"
    return "val" if all(video.split == "val" for video in unseen) else "held-out"


def _rng(device: str) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.startswith("cuda") else {})


def _set_rng(state: Mapping[str, torch.Tensor], device: str) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"], device)
