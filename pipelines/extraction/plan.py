"""What an extraction would do: the recipe and its id, what is done in any cache layer, what failed, what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines import catalog
from pipelines.encoders._base import Encoder, Precision, Preprocess
from pipelines.errors import UsageError
from pipelines.extraction.sources import SourceStat, stat_source
from pipelines.recipe import Config, fingerprint, parse_assignments, resolve
from pipelines.records import Failure, Video
from pipelines.spans import LastClip, n_clips
from pipelines.store.features import FeatureStore, artifact_folder, serving_stores
from pipelines.store.listing import known_rate
from pipelines.video.crops import CROPS
from pipelines.video.decode import DECODER_POLICY

Crops = Literal["center", "five", "ten"]
Redo = Literal["none", "failed", "all"]
FramesMode = Literal["store", "lazy"]
WeightsMode = Literal["published", "random"]
MISSING = "source file missing"
RANDOM_WEIGHTS = "random weights, seed 0"  # stands in a recipe where a hash would


class Extractable(Protocol):
    """What a plan needs of a dataset; `pipelines.data.manifest.Dataset` has it."""

    @property
    def name(self) -> str: ...

    def all_videos(self) -> list[Video]: ...


class PreprocessRecipe(Config):
    """How frames become an encoder's input (encoders._base.Preprocess, as it stands in a recipe)."""

    resize: int | tuple[int, int] | None
    crop_px: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class FeaturesRecipe(Config):
    """Everything that changes a feature vector and nothing else; the features id is its fingerprint."""

    encoder: str
    revision: int
    weights_sha256: str | None
    options: dict[str, Any]
    decoder: str
    clip_len: int
    stride: int
    fps: float | None
    last_clip: LastClip
    crops: tuple[str, ...]
    preprocess: PreprocessRecipe
    precision: Precision


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a video becomes clips, in frames (of the resampled video where `fps` is given)."""

    clip_len: int = 16
    stride: int = 16
    fps: float | None = None
    last_clip: LastClip = "drop"

    def __post_init__(self) -> None:
        for name in ("clip_len", "stride"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}: a clip needs at least one frame")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UsageError(f"fps = {self.fps}: give frames per second above 0, or leave it out for the video's own")


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """One encoder that a command asked for, built but not loaded (no torch, no weights read).

    `weights="random"` are seeded ones, for timing and tests: they make an artefact of their own, which says so.
    """

    name: str
    encoder: Encoder
    options: dict[str, Any]
    source_hash: str | None = None
    weights: WeightsMode = "published"

    @property
    def weights_sha256(self) -> str | None:
        """What stands for the weights in the recipe."""
        random = self.weights == "random" and self.encoder.weights is not None
        return RANDOM_WEIGHTS if random else self.encoder.weights_sha256()

    def load(self, device: str, precision: Precision) -> None:
        """Load the encoder with the weights that were chosen."""
        if self.weights == "random":
            self.encoder.load_random(device, precision)
        else:
            self.encoder.load(device, precision)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One artefact of an extraction: what it is, where it is written, and what stands in it already.

    `stores` hold vectors of this recipe, in the order they are read (this artefact, then ones of more crops);
    `done` are videos that one of them holds; `failed` were tried before;
    `replaced` are done but their source file changed; `missing` are listed but their file is not there;
    `todo` is what a run does now, in list order.
    """

    choice: EncoderChoice
    recipe: FeaturesRecipe
    id: str
    folder: Path
    kind: Literal["features", "frames"]
    stores: tuple[FeatureStore, ...]
    done: frozenset[str]
    failed: Mapping[str, Failure]
    replaced: frozenset[str]
    missing: tuple[Video, ...]
    todo: tuple[Video, ...]

    @property
    def sampling(self) -> Sampling:
        """How a video becomes this artefact's clips; artefacts that share it share a decode."""
        recipe = self.recipe
        return Sampling(recipe.clip_len, recipe.stride, recipe.fps, recipe.last_clip)


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What `vad extract` would do for one dataset; `videos` is the list that was asked for."""

    dataset: str
    videos: tuple[Video, ...]
    sampling: Sampling
    streams: tuple[StreamPlan, ...]
    stats: Mapping[str, SourceStat] = field(default_factory=dict)

    @property
    def todo(self) -> list[Video]:
        """Videos that at least one artefact lacks, in list order."""
        wanted = {video.id for stream in self.streams for video in stream.todo}
        return [video for video in self.videos if video.id in wanted]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost of a stream's to-do list; None where nothing is known to estimate from."""

    n_videos: int
    n_bytes: int | None
    seconds: float | None


def split_encoders(names: Iterable[str]) -> list[str]:
    """`["effnet:lite0+motion", "clip:vit-b-16"]` -> the encoders one by one, in order, without repeats.

    A and B of `A+B` stay artefacts of their own, so `A+B` and `A,B` are the same to an extraction.
    """
    found: list[str] = []
    for text in names:
        parts = [text] if text.endswith(".py") else text.replace("+", ",").split(",")
        found += [part.strip() for part in parts if part.strip() and part.strip() not in found]
    if not found:
        raise UsageError("no encoder is named", hint="vad encoders ls")
    return found


def choose_encoders(
    names: Iterable[str],
    assignments: Sequence[str] = (),
    *,
    frames: FramesMode = "store",
    weights: WeightsMode = "published",
) -> list[EncoderChoice]:
    """Every named encoder with its options from `--set` (`input=diff`, or `effnet.input=diff` among several).

    `frames="lazy"` makes the `frames` artefact an index of images instead of a copy.

    Raises:
        UsageError: an unknown encoder, an unknown option, or an option that names no encoder where there are several.
    """
    listed = split_encoders(names)
    layers = _options_of(listed, parse_assignments(assignments))
    choices = [_build(name, layers.get(name, {}), weights) for name in listed]
    if frames == "lazy":
        if not any(choice.encoder.kind == "frames" for choice in choices):
            raise UsageError("an index of images is a kind of frames artefact", hint="--encoder frames --lazy")
        for choice in choices:
            if choice.encoder.kind == "frames":
                choice.options["lazy"] = True
    return choices


def make_recipe(
    choice: EncoderChoice, *, sampling: Sampling, crops: Sequence[str], precision: Precision = "float32"
) -> FeaturesRecipe:
    """The recipe of one encoder.

    An encoder that sees whole frames (no crop size) has the one crop "center"; a frames artefact has clips of one
    frame and no precision to choose.

    Raises:
        UsageError: clips shorter than the encoder can take.
    """
    encoder = choice.encoder
    if sampling.clip_len < encoder.min_clip_len:
        raise UsageError(
            f"{encoder.name} needs clips of at least {encoder.min_clip_len} frames, not {sampling.clip_len}",
            hint="--clip-len 16",
        )
    if encoder.kind == "frames":
        sampling, precision = Sampling(1, 1, sampling.fps), "float32"
    return FeaturesRecipe(
        encoder=encoder.name,
        revision=encoder.revision,
        weights_sha256=choice.weights_sha256,
        options=choice.options,
        decoder=DECODER_POLICY,
        clip_len=sampling.clip_len,
        stride=sampling.stride,
        fps=sampling.fps,
        last_clip=sampling.last_clip,
        crops=tuple(crops) if encoder.preprocess.crop_px is not None else ("center",),
        preprocess=_preprocess(encoder.preprocess),
        precision=precision,
    )


def features_id(recipe: FeaturesRecipe) -> str:
    """The id of a features artefact: sha256 of its recipe, nothing else."""
    return fingerprint(recipe)


def plan(
    dataset: Extractable,
    *,
    choices: Sequence[EncoderChoice],
    layers: Sequence[Path],
    sampling: Sampling,
    crops: Crops = "center",
    precision: Precision = "float32",
    redo: Redo = "none",
    only: Sequence[str] | None = None,
    limit: int | None = None,
) -> ExtractionPlan:
    """What is done in any cache layer, what failed, what is replaced or missing, and what is to do.

    Reads folder listings, and for done videos the size and time of the source file; a file is hashed again only
    where these differ from what is stored.

    Raises:
        UsageError: an unknown id in `only`, an empty list, or one id for two files.
    """
    videos = _selected(dataset, only=only, limit=limit)
    stats = {video.id: stat for video in videos if (stat := stat_source(video.path)) is not None}
    streams = []
    for choice in choices:
        recipe = make_recipe(choice, sampling=sampling, crops=CROPS[crops], precision=precision)
        streams.append(_plan_stream(dataset.name, choice, recipe, videos=videos, stats=stats, layers=layers, redo=redo))
    return ExtractionPlan(dataset.name, tuple(videos), sampling, tuple(streams), stats)


def estimate(stream: StreamPlan) -> Estimate:
    """Bytes and seconds of what is to do: published lengths or else the mean of stored ones, at the last run's rate."""
    lengths = [video.n_frames for video in stream.todo]
    known = [length for length in lengths if length] or _stored_lengths(stream)
    if not known or not lengths:
        return Estimate(len(lengths), 0 if not lengths else None, 0.0 if not lengths else None)
    mean = sum(known) / len(known)
    n_frames = sum(length or mean for length in lengths)
    recipe = stream.recipe
    clips = [
        n_clips(round(length or mean), clip_len=recipe.clip_len, stride=recipe.stride, last_clip=recipe.last_clip)
        for length in lengths
    ]
    width = len(recipe.crops) * stream.choice.encoder.dim * 2
    frames_per_s = known_rate(stream.folder)
    n_bytes = sum(clips) * width if stream.kind == "features" else None  # frame sizes are not known before decoding
    return Estimate(len(lengths), n_bytes, n_frames / frames_per_s if frames_per_s else None)


def _plan_stream(
    dataset: str,
    choice: EncoderChoice,
    recipe: FeaturesRecipe,
    *,
    videos: Sequence[Video],
    stats: Mapping[str, SourceStat],
    layers: Sequence[Path],
    redo: Redo,
) -> StreamPlan:
    kind = choice.encoder.kind
    id = features_id(recipe)
    plain = recipe.model_dump(mode="json")
    folder = artifact_folder(layers[0], dataset, plain, id=id, kind=kind)
    stores = serving_stores(layers, dataset, plain, kind=kind)
    holder = _holders(stores, videos)
    replaced = frozenset(id for id, store in holder.items() if id in stats and not stats[id].unchanged(store.facts(id)))
    done = frozenset(holder) - replaced if redo != "all" else frozenset[str]()
    failed = _failures(stores, stats) if redo == "none" else {}
    failed = {id: failure for id, failure in failed.items() if id not in holder or id in replaced}
    left = [video for video in videos if video.id not in done and video.id not in failed]
    return StreamPlan(
        choice=choice,
        recipe=recipe,
        id=id,
        folder=folder,
        kind=kind,
        stores=tuple(stores),
        done=done,
        failed=failed,
        replaced=replaced,
        missing=tuple(video for video in left if video.id not in stats),
        todo=tuple(video for video in left if video.id in stats),
    )


def _holders(stores: Sequence[FeatureStore], videos: Sequence[Video]) -> dict[str, FeatureStore]:
    found: dict[str, FeatureStore] = {}
    listed = [(store, store.videos()) for store in stores]
    for video in videos:
        for store, ids in listed:
            if video.id in ids:
                found[video.id] = store
                break
    return found


def _failures(stores: Sequence[FeatureStore], stats: Mapping[str, SourceStat]) -> dict[str, Failure]:
    """Failures that still stand: a file that appeared or changed after its failure is tried again."""
    found: dict[str, Failure] = {}
    for store in reversed(stores):
        for id, failure in store.failures().items():
            stat = stats.get(id)
            appeared = stat is not None and failure.reason.startswith(MISSING)
            if not appeared and not (stat is not None and stat.changed_s >= _epoch(failure.when) + 1):
                found[id] = failure
    return found


def _epoch(when: str) -> float:
    try:
        return datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return float("inf")


def _selected(dataset: Extractable, *, only: Sequence[str] | None, limit: int | None) -> list[Video]:
    videos = dataset.all_videos()
    by_id: dict[str, Video] = {}
    for video in videos:
        other = by_id.setdefault(video.id, video)
        if other.path != video.path:
            raise UsageError(
                f"video id {video.id!r} of dataset {dataset.name!r} names two files: {other.path} and {video.path}",
                hint="ids are unique in a dataset: keep the folder in the id (`vad data check`)",
            )
    if only is not None:
        unknown = [id for id in only if id not in by_id]
        if unknown:
            raise UsageError(
                f"{len(unknown)} of the listed videos are not in dataset {dataset.name!r}: {', '.join(unknown[:5])}",
                hint=f"vad data show {dataset.name}",
            )
        by_id = {id: by_id[id] for id in dict.fromkeys(only)}
    chosen = list(by_id.values())[:limit]
    if not chosen:
        raise UsageError(f"dataset {dataset.name!r} lists no videos", hint=f"vad data check {dataset.name}")
    return chosen


def _options_of(listed: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    families = {_family(name): name for name in listed}
    options: dict[str, dict[str, Any]] = {name: {} for name in listed}
    for key, value in given.items():
        if key in families and isinstance(value, dict):
            for name in listed:
                if _family(name) == key:
                    options[name] |= value
        elif len(listed) == 1:
            options[listed[0]][key] = value
        else:
            raise UsageError(
                f"--set {key}: which of the encoders {', '.join(listed)} is it for?",
                hint=f"for example: --set {next(iter(families))}.{key}={value}",
            )
    return options


def _family(name: str) -> str:
    return Path(name).stem if name.endswith(".py") else name.partition(":")[0]


def _build(name: str, options: Mapping[str, Any], weights: WeightsMode) -> EncoderChoice:
    module = catalog.load("encoders", name)
    config, _ = resolve(module.Config, [("--set", options)])
    variant = "" if name.endswith(".py") else name.partition(":")[2]
    encoder: Encoder = module.build(variant, config)
    return EncoderChoice(name, encoder, config.model_dump(mode="json"), catalog.source_hash(name), weights)


def _preprocess(value: Preprocess) -> PreprocessRecipe:
    return PreprocessRecipe(
        resize=value.resize, crop_px=value.crop_px, interpolation=value.interpolation, mean=value.mean, std=value.std
    )


def _stored_lengths(stream: StreamPlan, most: int = 50) -> list[int]:
    return [store.facts(id).n_frames for store in stream.stores for id in sorted(store.videos())[:most]]
