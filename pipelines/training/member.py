"""Training one run: build, read features, loop, choose weights, learn thresholds, write the artefact last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from pipelines import artifacts
from pipelines.errors import VadError
from pipelines.methods._base import DataConfig, Method, MethodConfig, Phase, Resources, Shape
from pipelines.progress import Progress
from pipelines.records import Bag, Video, VideoTruth
from pipelines.scoring.infer import make_bag
from pipelines.store.features import FeatureStore
from pipelines.training.bags import Bags, BatchSource, Ragged, abnormal, load_ragged, multi_hot
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
from pipelines.training.inputs import Inputs, JoinedFeatures
from pipelines.training.loop import Precision, Session, StopFlag, train
from pipelines.training.select import (
    Keeper,
    Scorer,
    SelectionConfig,
    frame_measure,
    learn_thresholds,
    video_measure,
)
from pipelines.training.trackers import open_trackers

STATE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class MemberJob:
    """One run to train, everything resolved. `truth(video, n_frames)` is asked for frame-level selection alone."""

    folder: Path
    member: Member
    method: str
    module: ModuleType
    config: MethodConfig
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
    method_file: str | None = None
    unseen: tuple[Video, ...] = ()  # normal videos outside training; thresholds are learnt there where there are any
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
        features = JoinedFeatures(job.streams, crops=job.shape.crops)
        inputs = Inputs(job.shape.dim, job.shape.streams, job.config.data)
        if inputs.standardise and state is None:
            inputs.fit_to(features.read(video.id) for video in job.train)
        if state is not None:
            put_weights(inputs, state["inputs"], where=job.folder / STATE)
        inputs = inputs.to(job.device)
        keeper = _keeper(job, features, inputs)
        facts = _optimise(job, method, features, inputs, keeper, state, progress, flag)
        if keeper is not None and keeper.best is not None:
            method.load_state_dict(keeper.weights)
        _write(job, method, inputs, features, facts | _selected(keeper, facts), began)


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


def sources_of(
    phases: Sequence[Phase],
    features: JoinedFeatures,
    videos: Sequence[Video],
    inputs: Inputs,
    *,
    classes: Sequence[str],
    seed: int,
    device: str,
    pseudo: Mapping[str, Any] | None = None,
) -> list[BatchSource]:
    """A batch source for each phase; phases with one length policy share their array."""
    read: dict[tuple[Any, ...], Ragged] = {}
    found: list[BatchSource] = []
    for index, phase in enumerate(phases):
        data = phase.data
        key = _storage_key(data)
        if key not in read:
            ids = [video.id for video in videos]
            read[key] = load_ragged(features, ids, data, inputs=inputs, device=device, track=pseudo or None)
        found.append(
            Bags(
                read[key],
                videos,
                data,
                classes=classes,
                crops=features.crops,
                inputs=inputs,
                seed=seed * 1009 + index,
                device=device,
            )
        )
    return found


def _optimise(
    job: MemberJob,
    method: Method,
    features: JoinedFeatures,
    inputs: Inputs,
    keeper: Keeper | None,
    state: dict[str, Any] | None,
    progress: Progress,
    flag: StopFlag,
) -> dict[str, Any]:
    """Phases, or a closed-form fit; facts to record."""
    phases = method.phases()
    if state is None:  # a stopped run brings what was fitted with its weights
        method.fit(lambda: full_bags(features, job.train, inputs, job.shape, device=job.device))
    if not phases:
        return {"steps": 0}
    classes, seed = job.shape.classes, job.member.seed
    pseudo = job.resources.pseudo
    sources = sources_of(
        phases, features, job.train, inputs, classes=classes, seed=seed, device=job.device, pseudo=pseudo
    )
    session = Session(
        device=torch.device(job.device),
        precision=job.precision,
        check=keeper,
        check_every=job.selection.every,
        save_every=job.save_every,
        stop=flag,
        progress=progress,
    )

    def save(phase: int, step: int, optimizer: torch.optim.Optimizer, source: BatchSource) -> None:
        save_state(
            job.folder / STATE,
            {
                "format": STATE_FORMAT,
                "run_id": job.member.id,
                "phase": phase,
                "step": step,
                "done": sum(p.steps for p in phases[:phase]) + step,
                "weights": method.state_dict(),
                "inputs": inputs.state_dict(),
                "optimizer": optimizer.state_dict(),
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


def full_bags(
    features: JoinedFeatures, videos: Sequence[Video], inputs: Inputs, shape: Shape, *, device: str
) -> Iterator[Bag]:
    """Full-length training bags with their labels, one video each; for closed-form methods."""
    labels, bad = multi_hot(videos, shape.classes), abnormal(videos, shape.classes)
    for index, video in enumerate(videos):
        values, facts = features.read(video.id), features.facts(video.id)
        bag = make_bag(values, facts, features.crops, video.id, shape, inputs, device=device)
        yield replace(bag, y=bad[index : index + 1].float().to(device), classes=labels[index : index + 1].to(device))


def _keeper(job: MemberJob, features: JoinedFeatures, inputs: Inputs) -> Keeper | None:
    if job.selection.mode == "last":
        return None
    scorer = Scorer(features, inputs, job.shape, device=job.device)
    name = "test" if job.selection.mode == "best-on-test" else "val"
    if job.selection.metric == "frame-auc":
        return Keeper(frame_measure(scorer, job.held, job.truth), f"{name}_frame_auc", job.selection)
    bad = abnormal(job.held, job.shape.classes).tolist()
    return Keeper(video_measure(scorer, job.held, bad), f"{name}_video_auc", job.selection)


def _selected(keeper: Keeper | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    if keeper is None or keeper.best is None:
        return {"best_step": facts["steps"]}
    return {"best_step": keeper.best_step, "selection_metric": keeper.name, "selection_value": keeper.best}


def _write(
    job: MemberJob, method: Method, inputs: Inputs, features: JoinedFeatures, facts: Mapping[str, Any], began: float
) -> None:
    """Weights, thresholds, then artifact.json."""
    broken = [k for k, v in method.state_dict().items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise VadError(
            f"training ended with NaN or infinite weights in {', '.join(broken[:5])}", hint="a lower learning rate"
        )
    save_weights(job.folder / WEIGHTS, method, inputs, job.resources, name=job.method)
    fitted = [v.id for v, bad in zip(job.train, abnormal(job.train, job.shape.classes), strict=True) if not bad]
    normal = [video.id for video in job.unseen] or fitted
    scorer = Scorer(features, inputs, job.shape, device=job.device)
    filters = ("none", f"gaussian:{job.shape.stride}")
    thresholds = learn_thresholds(method, scorer, normal, filters=filters)
    needs = [
        {**need, "recipe": stack[0].artifact.recipe}
        for need, stack in zip(job.member.recipe["features"], job.streams, strict=True)
    ]
    recorded: dict[str, Any] = {
        **facts,
        "features": needs,
        "feature_folders": [str(stack[0].folder) for stack in job.streams],
        "thresholds": thresholds.get("none", {}),
        "threshold_smooth": "none",
        "thresholds_smoothed": {text: found for text, found in thresholds.items() if text != "none"},
        "thresholds_from": f"frame scores of {len(normal)} normal {'val' if job.unseen else 'training'} videos",
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


def _storage_key(data: DataConfig) -> tuple[Any, ...]:
    return data.length, data.size, data.normalise == "l2-clips"


def _rng(device: str) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.startswith("cuda") else {})


def _set_rng(state: Mapping[str, torch.Tensor], device: str) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"], device)
