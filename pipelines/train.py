"""The train stage: features -> runs. `plan` says what would be trained and why; `run` trains what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pipelines import artifacts, catalog
from pipelines.artifacts import Roots
from pipelines.data import manifest as manifests
from pipelines.data.holdout import hold_out_normal, holdout, refuse_leaks
from pipelines.data.manifest import Dataset
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.extraction import pseudo as pseudo_labels
from pipelines.extraction.pseudo import Pseudo
from pipelines.extraction.text import class_text, default_encoder, prompt_tower, text_id
from pipelines.methods._base import Method, MethodConfig, Resources, Shape
from pipelines.progress import Progress, Silent
from pipelines.recipe import canonical_json, fingerprint, parse_assignments, read_config_file, resolve, suggest
from pipelines.records import Video
from pipelines.store.regions import CaptionsStore
from pipelines.training.bags import abnormal, multi_hot
from pipelines.training.checkpoint import TUBES, shape_record
from pipelines.training.choose import Choice, choose_features, choose_tubes, last_dataset
from pipelines.training.group import (
    Member,
    claim_group,
    find_group,
    group_id,
    is_begun,
    is_done,
    new_group,
    place_of,
    split_sweep,
    write_latest,
)
from pipelines.training.inputs import JoinedFeatures
from pipelines.training.loop import Precision, StopFlag, stop_flag
from pipelines.training.material import Stored, stored
from pipelines.training.member import MemberJob, train_member
from pipelines.training.select import SelectionConfig
from pipelines.training.transfer import Start, start_of

NO_PRESET = "none"
NAMED = 10  # videos that a message names


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What a user asked for; None means the default, which the plan's `assumed` then says.

    `features` is an id, an encoder or `A+B`; `seeds` runs from `seed` on; `sets` are `key=value`, a comma makes a
    sweep; `pseudo` is a run or `clip[:variant]`, for methods that train on pseudo labels; `resume` insists on going on
    with a stopped run; `new` trains although the run exists; `anomalies` says what a one-class method makes of a training
    list that holds some; `shard` (i, n) trains every n-th run of the group alone.
    """

    method: str = "mil-rank"
    dataset: str | None = None
    features: str | None = None
    split: str | None = None
    seeds: int = 1
    seed: int = 0
    preset: str | None = None
    config: Path | None = None
    sets: Sequence[str] = ()
    text: str | None = None
    pseudo: str | None = None
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    anomalies: Literal["refuse", "leave out"] = "refuse"
    precision: Precision = "float32"
    device: str = "auto"
    resume: bool = False
    new: bool = False
    save_every: int = 500
    cache_dir: str | Path | None = None
    runs_dir: str | Path | None = None
    manifest: Path | None = None
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and self.new:
            raise UsageError(
                "--new makes a group of its own, so each of several tasks would make one", hint="leave out --new"
            )


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that is decided before the first step.

    `configs` are the resolved configurations, one a member; `origin` says which layer each value of the first came
    from; `held` the videos that selection looks at; `unseen` normal videos outside training, where a plateau and thresholds
    look; `assumed` lines say what was not named; `device` is resolved.
    """

    request: TrainRequest
    roots: Roots
    dataset: Dataset
    split: str
    method: str
    module: ModuleType
    choice: Choice
    shape: Shape
    train: tuple[Video, ...]
    held: tuple[Video, ...]
    unseen: tuple[Video, ...]
    configs: tuple[MethodConfig, ...]
    origin: dict[str, str]
    preset: str
    members: tuple[Member, ...]
    group: Path
    text_encoder: str | None
    pseudo: Pseudo | None
    captions: tuple[CaptionsStore, ...]
    starts: tuple[Start, ...]
    assumed: tuple[str, ...]
    device: str

    @property
    def done(self) -> tuple[bool, ...]:
        """Which members exist already."""
        return tuple(is_done(self.group / m.place, m) for m in self.members)

    @property
    def begun(self) -> tuple[bool, ...]:
        """Which members were stopped and go on."""
        return tuple(is_begun(self.group / m.place) for m in self.members)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """One run of the group: its folder, seed, swept values, and what happened to it."""

    folder: Path
    id: str
    seed: int
    swept: dict[str, str]
    status: Literal["trained", "resumed", "up to date"]
    recorded: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The group's folder and its runs."""

    group: Path
    runs: tuple[RunOutcome, ...]
    assumed: tuple[str, ...]


def run(request: TrainRequest, *, progress: Progress | None = None) -> TrainResult:
    """Train every run that the request asks for and that does not exist, then name the group as `latest`.

    Raises:
        UsageError, MissingArtifactError: nothing was begun; the message says what to type.
        VerificationError: features that are damaged or do not fit together; names the video.
        Stopped: a signal came; the state is saved and the same request goes on.
    """
    sink = progress or Silent()
    planned = plan(request)
    for line in planned.assumed:
        sink.note(line)
    if request.resume and not any(planned.begun):
        raise MissingArtifactError(
            f"no stopped run of {planned.method} on {planned.dataset.name} with this configuration in {planned.group.parent}",
            hint="leave out --resume to start it (or `vad runs ls`)",
        )
    again: Literal["find", "new"] = "new" if request.new else "find"
    group = claim_group(planned.group, group_id(planned.members), planned.members, again=again)
    planned = replace(planned, group=group)
    own, count = request.shard or (0, 1)
    outcomes = []
    with stop_flag() as flag:
        for index, member in enumerate(planned.members):
            if index % count == own:
                outcomes.append(_one(planned, index, member, sink, flag))
    write_latest(planned.roots.runs, planned.group)
    return TrainResult(planned.group, tuple(outcomes), planned.assumed)


def plan(request: TrainRequest) -> TrainPlan:
    """Resolve everything that the request leaves open, check labels and features, and find what exists.

    Raises:
        UsageError: an unknown name, a wrong configuration (all errors at once), labels that the method cannot use.
        MissingArtifactError: features or text weights that are not here.
    """
    if request.seeds < 1:
        raise UsageError(f"--seeds {request.seeds}: at least one run is needed")
    manifest = manifests.load(request.manifest)
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=manifest.cache_dir
    )
    assumed: list[str] = []
    module = catalog.load("methods", request.method)
    method, kind = str(module.NAME), kind_of(module)
    name = request.dataset or last_dataset(roots.features, kind="boxes" if kind == TUBES else kind)
    if request.dataset is None:
        assumed.append(f"dataset: {name} (the last {kind} extracted)")
    dataset = manifest.dataset(name)
    split = request.split or dataset.default_split
    fixed, combinations = split_sweep(request.sets)
    preset = _preset(module, request, dataset.name, assumed)
    layered = [_config(module, request, preset, fixed, combination) for combination in combinations]
    starts = [start_of(module, config, dataset.classes, root=roots.runs) for config, _ in layered]
    configs = [start.config for start in starts]

    defaults = [*module.DEFAULT_FEATURES, dataset.encoder]
    if kind == TUBES:
        choice = choose_tubes(roots.features, name, request.features)
    else:
        choice = choose_features(roots.features, name, request.features, defaults=defaults, kind=kind)
    if request.features is None:
        assumed.append(f"{kind}: {choice.label} ({choice.why})")
    joined = stored(kind, choice.streams)
    if isinstance(joined, JoinedFeatures):
        assumed += _crops_left_out(joined)
    train, held = _videos(dataset, split, request, joined, module, assumed)
    train, unseen = _unseen(dataset, split, train, held, configs, joined, module, assumed)
    shape = Shape(joined.dim, dict(joined.streams), dataset.classes, joined.crops, joined.clip_len, joined.stride)
    text = (request.text or default_encoder(choice.encoders)) if method_class(module).needs_text else None
    if text is not None and request.text is None:
        assumed.append(f"text vectors: {text}")
    device = resolve_device(request.device)
    pseudo = _pseudo(request, dataset, train, module, roots, shape, device)
    base = _recipe(request, dataset, split, method, choice, shape, train, held, text)
    base |= {"pseudo": pseudo.id} if pseudo is not None else {}
    captions = _captions(roots, name, choice) if kind == TUBES else ()
    base |= {"captions": captions[0].artifact.id} if captions else {}
    members = tuple(
        Member(
            place_of(combination, seed),
            seed,
            combination,
            {**base, **_started(start), "config": start.config.model_dump(mode="json"), "seed": seed},
        )
        for combination, start in zip(combinations, starts, strict=True)
        for seed in range(request.seed, request.seed + request.seeds)
    )
    root = roots.runs / artifacts.folder_name(name) / artifacts.folder_name(method)
    id = group_id(members)
    group = (None if request.new else find_group(root, id)) or new_group(root, id)
    return TrainPlan(
        request=request,
        roots=roots,
        dataset=dataset,
        split=split,
        method=method,
        module=module,
        choice=choice,
        shape=shape,
        train=tuple(train),
        held=tuple(held),
        unseen=tuple(unseen),
        configs=tuple(config for config in configs for _ in range(request.seeds)),
        origin=layered[0][1],
        preset=preset,
        members=members,
        group=group,
        text_encoder=text,
        pseudo=pseudo,
        captions=tuple(captions),
        starts=tuple(start for start in starts for _ in range(request.seeds)),
        assumed=tuple(assumed),
        device=device,
    )


def n_members(request: TrainRequest) -> int:
    """How many runs the request means: settings of the sweep times seeds. Looks at nothing but the request."""
    return request.seeds * len(split_sweep(request.sets)[1])


def check(request: TrainRequest) -> None:
    """Whether the method, its preset and every key and value of its configuration are right; looks at no data.

    Raises:
        UsageError: all wrong keys and values of a setting at once.
    """
    module = catalog.load("methods", request.method)
    fixed, combinations = split_sweep(request.sets)
    preset = _preset(module, request, request.dataset or "", [])
    for combination in combinations:
        _config(module, request, preset, fixed, combination)


def kind_of(module: ModuleType) -> str:
    """What a method reads: "features" or "frames"."""
    return str(getattr(module, "KIND", "features"))


def _crops_left_out(joined: JoinedFeatures) -> list[str]:
    """A line for each stream with crops that another one lacks: they are not read."""
    return [
        f"crops: {', '.join(joined.crops)} of {stream}; {', '.join(crops)} are not read, the other stream lacks them"
        for stream, crops in joined.left_out.items()
    ]


def method_class(module: ModuleType) -> type[Method]:
    """The Method that a method file defines.

    Raises:
        UsageError: it defines none.
    """
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
            return value
    raise UsageError(f"{module.__name__} defines no Method", hint="the README shows a complete example")


def resolve_device(device: str) -> str:
    """`auto` as `cuda` where there is one, else `cpu`; other names as they are.

    Raises:
        UsageError: a device that torch does not have here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device!r} cannot be used here: {error}", hint="--device auto") from error
    return device


def _one(planned: TrainPlan, index: int, member: Member, sink: Progress, flag: StopFlag) -> RunOutcome:
    folder = planned.group / member.place
    begun = planned.begun[index]
    status: Literal["trained", "resumed", "up to date"] = "up to date"
    if not planned.done[index]:
        status = "resumed" if begun else "trained"
        request = planned.request
        if hasattr(planned.module, "macs_per_crop"):
            _say_cost(planned, index, sink)
        train_member(
            MemberJob(
                folder=folder,
                member=member,
                method=planned.method,
                method_file=str(Path(request.method).resolve()) if request.method.endswith(".py") else None,
                module=planned.module,
                config=planned.configs[index],
                shape=planned.shape,
                resources=_resources(planned, index, sink),
                inputs=_inputs(planned, index),
                streams=planned.choice.streams,
                train=planned.train,
                held=planned.held,
                kind=kind_of(planned.module),
                unseen=planned.unseen,
                truth=planned.dataset.truth,
                selection=request.selection,
                precision=request.precision,
                device=planned.device,
                save_every=request.save_every,
            ),
            progress=sink,
            flag=flag,
        )
    recorded = artifacts.read(folder).recorded
    return RunOutcome(folder, member.id, member.seed, dict(member.swept), status, recorded)


def _unseen(
    dataset: Dataset,
    split: str,
    train: list[Video],
    held: Sequence[Video],
    configs: Sequence[Any],
    features: Stored,
    module: ModuleType,
    assumed: list[str],
) -> tuple[list[Video], list[Video]]:
    """The training videos, and normal videos outside them: of the val part, and a share of a one-class training list.

    A method that has learnt its training list by heart scores it at nothing, and a threshold taken there would alarm
    everywhere.

    Raises:
        UsageError: a sweep over `val_fraction`.
    """
    have = features.videos()
    taken = {video.id for video in (*train, *held)}
    videos = [v for v in dataset.videos(split, "val") if v.id in have and v.id not in taken]
    normal = [v for v, bad in zip(videos, abnormal(videos, dataset.classes), strict=True) if not bad]
    if method_class(module).supervision != "one-class":
        return train, normal
    shares = {float(getattr(config, "val_fraction", 0.0)) for config in configs}
    if len(shares) > 1:
        raise UsageError("val_fraction decides the training list: one command trains one value")
    clean = [v for v, bad in zip(train, abnormal(train, dataset.classes), strict=True) if not bad]
    _, out = hold_out_normal(clean, shares.pop())
    gone = {video.id for video in out}
    fitted = [video for video in train if video.id not in gone]
    if out:
        assumed.append(
            f"held out: {len(out)} of {len(train)} normal training videos ({', '.join(v.id for v in out[:5])})"
        )
    return fitted, normal + out


def _preset(module: ModuleType, request: TrainRequest, dataset: str, assumed: list[str]) -> str:
    """The preset's name: the one asked for, else the dataset's, else the method's default; "none" for no preset."""
    presets: dict[str, Any] = getattr(module, "PRESETS", {})
    if request.preset is not None:
        if request.preset not in (*presets, NO_PRESET):
            raise UsageError(
                f"{module.NAME} has no preset {request.preset!r}{suggest(request.preset, list(presets))}",
                hint=f"vad methods show {module.NAME}",
            )
        return request.preset
    if request.config is not None:
        return NO_PRESET
    chosen = dataset if dataset in presets else str(getattr(module, "DEFAULT_PRESET", NO_PRESET))
    if chosen != NO_PRESET:
        assumed.append(f"preset: {chosen}")
    return chosen


def _config(
    module: ModuleType, request: TrainRequest, preset: str, fixed: Sequence[str], swept: dict[str, str]
) -> tuple[MethodConfig, dict[str, str]]:
    layers: list[tuple[str, dict[str, Any]]] = []
    if preset != NO_PRESET:
        layers.append((f"preset {preset}", module.PRESETS[preset]))
    if request.config is not None:
        layers.append((f"--config {request.config}", read_config_file(request.config)))
    layers.append(("--set", parse_assignments([*fixed, *(f"{key}={value}" for key, value in swept.items())])))
    return resolve(module.Config, layers)


def _videos(
    dataset: Dataset,
    split: str,
    request: TrainRequest,
    features: Stored,
    module: ModuleType,
    assumed: list[str],
) -> tuple[list[Video], list[Video]]:
    """The training videos that have features, and those that selection looks at.

    Raises:
        UsageError: labels that the method cannot learn from.
        MissingArtifactError: videos without features that are no recorded failures.
    """
    selection = request.selection
    train = _present(dataset, _trained_on(dataset, split, request, module, assumed), features, assumed)
    held: list[Video] = []
    if selection.mode == "best-on-test":
        held = _present(dataset, dataset.videos(split, "test"), features, assumed)
        assumed.append(
            "selection best-on-test: the weights are chosen on the test videos; every number carries the mark"
        )
    elif selection.mode == "val":
        held = _present(dataset, dataset.videos(split, "val"), features, assumed)
        if held:
            refuse_leaks(train, held, what="val")
        else:
            train, held = holdout(train, selection.share, normal=dataset.normal)
            assumed.append(f"val: {len(held)} of the training videos, by groups ({dataset.name} lists no val part)")
    check_labels(train, dataset.classes, method_class(module), name=str(module.NAME))
    return train, held


def _trained_on(
    dataset: Dataset, split: str, request: TrainRequest, module: ModuleType, assumed: list[str]
) -> list[Video]:
    """The training list; for a one-class method its normal videos.

    Raises:
        UsageError: a one-class method's list holds anomalies, and leaving them out was not asked for.
    """
    videos = dataset.videos(split, "train")
    if method_class(module).supervision != "one-class":
        if request.anomalies == "leave out":
            raise UsageError(f"--normal-only: {module.NAME} is no one-class method", hint="vad methods ls")
        return videos
    bad = [v for v, is_bad in zip(videos, abnormal(videos, dataset.classes).tolist(), strict=True) if is_bad]
    if not bad or (method_class(module).takes_anomalies and request.anomalies == "refuse"):
        return videos
    shown = ", ".join(v.id for v in bad[:NAMED]) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
    told = f"{len(bad)} of {len(videos)} training videos of {dataset.name} hold anomalies: {shown}"
    if request.anomalies == "refuse":
        raise UsageError(f"{module.NAME} learns from normal videos alone; {told}", hint="--normal-only leaves them out")
    assumed.append(f"left out: {told}")
    gone = {video.id for video in bad}
    return [video for video in videos if video.id not in gone]


def check_labels(videos: Sequence[Video], classes: Sequence[str], method: type[Method], *, name: str) -> None:
    """Refuse training lists that a method cannot learn from.

    Raises:
        UsageError: no videos, no labels, all normal, all abnormal, or (for a fine-grained method) an empty class.
    """
    if not videos:
        raise UsageError(f"{name}: the training list is empty", hint="vad data check DATASET")
    counts = multi_hot(videos, classes).sum(0).tolist()
    n_abnormal = int(abnormal(videos, classes).sum())
    n_normal = len(videos) - n_abnormal
    if method.supervision == "weak" and not (n_normal and n_abnormal):
        raise UsageError(
            f"{name} learns from normal and abnormal videos; the training list has {n_normal} normal and {n_abnormal} abnormal",
            hint="vad data show DATASET; one-class methods take normal videos alone (vad methods ls)",
        )
    if method.supervision == "one-class" and not n_normal:
        raise UsageError(f"{name} learns from normal videos; the training list has none")
    empty = [c for c, count in zip(classes, counts, strict=True) if not count]
    if method.needs_class_labels and empty:
        raise UsageError(
            f"{name} needs training videos of every class; none is labelled {', '.join(empty)}",
            hint="vad data check DATASET; mil-rank needs normal and abnormal only",
        )


def _present(dataset: Dataset, videos: Sequence[Video], features: Stored, assumed: list[str]) -> list[Video]:
    """The videos with features; recorded failures are left out and told, anything else that lacks is an error."""
    have = features.videos()
    missing = [video.id for video in videos if video.id not in have]
    failed = {video for stack in features.stacks for store in stack for video in store.failures()}
    lost = [video for video in missing if video not in failed]
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise MissingArtifactError(
            f"{len(lost)} of {len(videos)} videos of {dataset.name} have no features: {shown}",
            hint=f"vad extract {dataset.name} (it does only what is missing; vad status {dataset.name} shows it)",
        )
    if missing:
        assumed.append(f"left out: {len(missing)} videos whose extraction failed ({', '.join(missing[:5])})")
    return [video for video in videos if video.id in have]


def _recipe(
    request: TrainRequest,
    dataset: Dataset,
    split: str,
    method: str,
    choice: Choice,
    shape: Shape,
    train: Sequence[Video],
    held: Sequence[Video],
    text: str | None,
) -> dict[str, Any]:
    """Everything a run id hashes but its configuration and seed."""
    mode = request.selection.mode
    recipe = {
        "method": method,
        "method_source": catalog.source_hash(request.method),
        "dataset": dataset.name,
        "split": split,
        "selection": mode,
        "selection_options": None if mode == "last" else request.selection.model_dump(mode="json"),
        "precision": request.precision,
        "features": choice.records(shape.streams),
        "text": text,
        **({"text_id": text_id(dataset.classes, encoder=text, phrases=dataset.phrases)} if text else {}),
        "classes": list(dataset.classes),
        "shape": shape_record(shape),
        "videos": _fingerprint(train, dataset.classes),
        "held": _fingerprint(held, dataset.classes) if held else None,
    }
    canonical_json(recipe)
    return recipe


def _fingerprint(videos: Sequence[Video], classes: Sequence[str]) -> str:
    return fingerprint({"classes": list(classes), "videos": sorted([v.id, sorted(v.classes)] for v in videos)})


def _pseudo(
    request: TrainRequest,
    dataset: Dataset,
    train: Sequence[Video],
    module: ModuleType,
    roots: Roots,
    shape: Shape,
    device: str,
) -> Pseudo | None:
    """The pseudo labels of a method that needs them.

    Raises:
        MissingArtifactError: none were named; the hint has the command.
        UsageError: the method takes none.
    """
    needed = method_class(module).needs_pseudo
    if request.pseudo is None:
        if needed:
            raise pseudo_labels.missing(dataset, method=request.method, roots=roots)
        return None
    if not needed:
        raise UsageError(f"{module.NAME} takes no pseudo labels", hint="leave out --pseudo")
    grid = (shape.clip_len, shape.stride)
    return pseudo_labels.resolve(request.pseudo, dataset, train, roots=roots, grid=grid, device=device)


def _started(start: Start) -> dict[str, str]:
    """What a run's recipe says of the run it started from; nothing without one."""
    return {"started_from": start.run} if start.run else {}


def _inputs(planned: TrainPlan, index: int) -> dict[str, str]:
    """Ids of the artefacts beside the features that a member is made from, by role."""
    found = {"pseudo": planned.pseudo.id} if planned.pseudo is not None else {}
    text = planned.members[index].recipe.get("text_id")
    found |= {f"text:{planned.text_encoder}": str(text)} if text else {}
    found |= {"captions": planned.captions[0].artifact.id} if planned.captions else {}
    run = planned.starts[index].run
    return found | ({"run:core": run} if run else {})


def _captions(roots: Roots, dataset: str, choice: Choice) -> list[CaptionsStore]:
    """The newest captions of the chosen boxes' regions.

    Raises:
        MissingArtifactError: none; the hint makes them.
    """
    from pipelines.extraction.region_captions import find_captions

    return find_captions(roots.features, dataset, choice.streams[0][0].artifact.id)


def _say_cost(planned: TrainPlan, index: int, sink: Progress) -> None:
    """What a run over regions will take, before it starts."""
    from pipelines.training.tubes import StoredTubes, cost

    found = StoredTubes(planned.choice.streams)
    config: Any = planned.configs[index]
    macs = planned.module.macs_per_crop(config)
    sink.note(cost(found, planned.train, config.data, length=config.smm.window + config.smm.dt, macs=macs))


def _resources(planned: TrainPlan, index: int, progress: Progress) -> Resources:
    pseudo = planned.pseudo.labels(progress=progress) if planned.pseudo is not None else {}
    extras = dict(planned.starts[index].extras)
    extras |= {"captions": planned.captions} if planned.captions else {}
    encoder, dataset = planned.text_encoder, planned.dataset
    if encoder is None:
        return Resources(pseudo=pseudo, extras=extras)
    cache, layers = planned.roots.cache, planned.roots.features[1:]
    found = class_text(dataset.classes, encoder=encoder, cache=cache, layers=layers, phrases=dataset.phrases)
    if method_class(planned.module).takes_prompt_tower and encoder.startswith("clip:"):
        extras["prompt_tower"] = prompt_tower(dataset.classes, encoder=encoder, phrases=dataset.phrases)
    return Resources(text=found.vectors, pseudo=pseudo, extras=extras)
