"""Where an evaluation's scores come from: a trained run and stored features, or a file that anybody brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipelines import artifacts
from pipelines.artifacts import Artifact, Roots
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.progress import Progress
from pipelines.recipe import fingerprint
from pipelines.records import Scores, Video
from pipelines.scoring.expand import Expand
from pipelines.scoring.gather import Coverage
from pipelines.store import runs
from pipelines.store import scores as files
from pipelines.store.features import FeatureStore, find_stores, serving_stores
from pipelines.store.runs import EvalRecord
from pipelines.store.scores import Layout, ScoreFile

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset

SCORES = "scores.npz"


@dataclass(frozen=True, slots=True)
class Provided:
    """Scores by the dataset's video id, and what is known of the videos beside them.

    `length_source` counts videos by where their length came from; `classes` names the class columns, None where the
    scores have none or do not name them; `expand` is how the method wants its clips expanded; `facts` goes into metrics.json under "scores"; `approximate` videos have a
    length made of clips or rows.
    """

    scores: Mapping[str, Scores]
    fps: Mapping[str, float | None]
    length_source: Mapping[str, int]
    classes: tuple[str, ...] | None
    facts: Mapping[str, Any]
    expand: Expand = "repeat"
    approximate: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


class ScoreSource(Protocol):
    """What an evaluation needs of either origin."""

    @property
    def identity(self) -> dict[str, Any]:
        """What makes these scores these scores; part of the eval id."""

    @property
    def parent(self) -> Path:
        """The folder under which the evaluation is kept."""

    @property
    def model(self) -> dict[str, Any]:
        """metrics.json's "model" block."""

    def coverage(self, videos: Sequence[Video]) -> Coverage:
        """Which of the videos have no scores, and which scores belong to no video of the dataset."""

    def read(self, videos: Sequence[Video], progress: Progress) -> Provided:
        """The scores of those of `videos` that have any."""


@dataclass(slots=True)
class RunSource:
    """A run's own scores: the method over stored features, or scores.npz of an earlier evaluation of the same.

    With `words` "dataset" a method whose classes are text scores the dataset's own classes (zero-shot) where it can.
    """

    folder: Path
    artifact: Artifact
    dataset: Dataset
    roots: Roots
    device: str
    reuse: bool = True
    words: Literal["run", "dataset"] = "run"
    _places: dict[str, tuple[FeatureStore, ...]] | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        return {"run": self.artifact.id}

    @property
    def parent(self) -> Path:
        return self.folder / runs.EVALS

    @property
    def model(self) -> dict[str, Any]:
        """Method, config and its hash, weights' hash, features, selection, seed and the run's own place."""
        recipe, weights = self.artifact.recipe, self.folder / "model.safetensors"
        return {
            "run": self.artifact.id,
            "folder": str(self.folder),
            "method": recipe.get("method"),
            "config": recipe.get("config"),
            "config_sha256": fingerprint(recipe.get("config")),
            "weights_sha256": files.sha256(weights) if weights.is_file() else None,
            "features": recipe.get("features"),
            "trained_on": {"dataset": recipe.get("dataset"), "split": recipe.get("split")},
            "selection": recipe.get("selection"),
            "seed": recipe.get("seed"),
            "device": self.device,
            "versions": self.artifact.versions,
        }

    def coverage(self, videos: Sequence[Video]) -> Coverage:
        """Videos that some stream's features lack.

        Raises:
            MissingArtifactError: there are no features of the run's recipe for this dataset at all.
        """
        places = self.places()
        return Coverage(missing=tuple(video.id for video in videos if video.id not in places))

    def read(self, videos: Sequence[Video], progress: Progress) -> Provided:
        places = self.places()
        wanted = [video.id for video in videos if video.id in places]
        key = self._key(wanted, places)
        earlier = self._earlier(key) if self.reuse else None
        how: Expand = "repeat"
        refused = ""
        if earlier is not None:
            progress.note(f"scores as in {earlier.folder.name}, nothing to compute")
            rows = files.read(earlier.folder / SCORES).rows
            how = earlier.metrics["scores"].get("method_expand", "repeat")
            refused = earlier.metrics["scores"].get("no_zero_shot", "")
            scores = {v: files.place(v, rows[v], rows[v].n_frames or 0, Layout()) for v in wanted}
        else:
            scores, how, refused = self._compute(wanted, places, progress)
        zero_shot = self.words == "dataset" and not refused
        facts = [places[video][0].facts(video) for video in wanted]
        loose = [video for video, fact in zip(wanted, facts, strict=True) if fact.extra.get("length") == "clips"]
        return Provided(
            scores=scores,
            expand=how,
            approximate=frozenset(loose),
            fps={video: fact.fps for video, fact in zip(wanted, facts, strict=True)},
            length_source=_counted("16n" if fact.extra.get("length") == "clips" else "features" for fact in facts),
            classes=tuple(self.dataset.classes if zero_shot else self.artifact.recipe.get("classes", ())) or None,
            facts={
                "key": key,
                "unit": "clips",
                "reused": earlier is not None,
                "method_expand": how,
                "zero_shot": zero_shot,
            }
            | ({"no_zero_shot": refused} if refused else {})
            | _steps(scores),
            warnings=(f"not zero-shot: {refused}; --class-map FILE maps its classes",) if refused else (),
        )

    def _compute(
        self, wanted: Sequence[str], places: Mapping[str, tuple[FeatureStore, ...]], progress: Progress
    ) -> tuple[dict[str, Scores], Expand, str]:
        """The method over stored features, how it wants its clips expanded, and why it is not zero-shot where asked."""
        from pipelines.scoring.infer import score_store
        from pipelines.scoring.zero_shot import with_words_of
        from pipelines.training.checkpoint import load_run

        device = pick_device(self.device)
        run, refused = load_run(self.folder, device=device), ""
        if self.words == "dataset":
            try:
                run = with_words_of(run, self.dataset, self.roots)
            except UsageError as error:
                refused = error.message
        by_stores: dict[tuple[Path, ...], list[str]] = {}
        for video in wanted:
            by_stores.setdefault(tuple(store.folder for store in places[video]), []).append(video)
        found: dict[str, Scores] = {}
        for ids in by_stores.values():
            for scores in score_store(run, places[ids[0]], ids, device=device, progress=progress):
                found[scores.video_id] = scores
        return found, run.method.expand, refused

    def places(self) -> dict[str, tuple[FeatureStore, ...]]:
        """Each complete video's stores, one a stream; the first cache layer that has it wins."""
        if self._places is None:
            streams = [self._stores(need) for need in self.artifact.recorded.get("features", ())]
            held = [[(store, store.videos()) for store in stores] for stores in streams]
            everything = [set().union(*(ids for _, ids in stores)) for stores in held]
            complete = set.intersection(*everything) if everything else set()
            self._places = {
                video: tuple(next(store for store, ids in stores if video in ids) for stores in held)
                for video in complete
            }
        return self._places

    def _stores(self, need: Mapping[str, Any]) -> list[FeatureStore]:
        layers, recipe, kind = self.roots.features, need["recipe"], str(need.get("kind", "features"))
        found = serving_stores(layers, self.dataset.name, recipe, kind=kind)
        found += [
            store
            for store in find_stores(layers, self.dataset.name, kind=kind)
            if store.artifact.id == need["id"] and store.folder not in {other.folder for other in found}
        ]
        if not found:
            raise MissingArtifactError(
                f"{self.dataset.name} has no {kind} {str(need['encoder'])!r} of the run's recipe ({str(need['id'])[:8]})",
                hint=f"vad extract {self.dataset.name} --encoder {need['encoder']}"
                + (
                    f" --clip-len {recipe.get('clip_len')} --stride {recipe.get('stride')}"
                    if kind == "features"
                    else ""
                ),
            )
        return found

    def _key(self, wanted: Sequence[str], places: Mapping[str, tuple[FeatureStore, ...]]) -> str:
        """What decides the scores: the run, and each video's features."""
        made = {video: [[store.artifact.id, store.checksum(video)] for store in places[video]] for video in wanted}
        asked = {"words": [list(self.dataset.classes), self.dataset.phrases]} if self.words == "dataset" else {}
        return fingerprint({"run": self.artifact.id, "videos": made, **asked})

    def _earlier(self, key: str) -> EvalRecord | None:
        for record in reversed(runs.evals(self.folder)):
            if record.metrics.get("scores", {}).get("key") == key and (record.folder / SCORES).is_file():
                return record
        return None


@dataclass(slots=True)
class FileSource:
    """Scores that anybody brings, matched to the dataset's ids.

    `others` are its videos outside the evaluated part; `annotations` the file that the dataset was made of, where it was,
    and `notes` what must be said of that.
    """

    file: ScoreFile
    layout: Layout
    dataset: Dataset
    roots: Roots
    others: Mapping[str, Video] = field(default_factory=dict)
    annotations: Path | None = None
    notes: tuple[str, ...] = ()
    _pairs: dict[str, str] | None = field(default=None, repr=False)
    _extra: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "scores": self.file.sha256,
            "layout": [self.layout.unit, self.layout.clip_frames, self.layout.offset],
        }

    @property
    def parent(self) -> Path:
        return self.roots.runs / runs.REFEREE / artifacts.folder_name(self.dataset.name)

    @property
    def model(self) -> dict[str, Any]:
        made_of = {"annotations": str(self.annotations.absolute())} if self.annotations else {}
        return {
            "scores_file": str(self.file.source),
            "scores_sha256": self.file.sha256,
            "selection": "unknown",
            **made_of,
        }

    def coverage(self, videos: Sequence[Video]) -> Coverage:
        pairs = self._match(videos)
        return Coverage(tuple(v.id for v in videos if v.id not in pairs), self._extra)

    def read(self, videos: Sequence[Video], progress: Progress) -> Provided:
        pairs = self._match(videos)
        stores = find_stores(self.roots.features, self.dataset.name)
        held = {store.folder: store.videos() for store in stores}
        scores: dict[str, Scores] = {}
        fps: dict[str, float | None] = {}
        sources: list[str] = []
        wanted = [video for video in videos if video.id in pairs]
        progress.start(len(wanted), "reading scores")
        for video in wanted:
            rows = self.file.rows[pairs[video.id]]
            store = next((s for s in stores if video.id in held[s.folder]), None)
            n_frames, source, fps[video.id] = _length(video, rows, store, self.layout)
            scores[video.id] = files.place(video.id, rows, n_frames, self.layout)
            sources.append(source)
            progress.advance()
        progress.finish()
        return Provided(
            scores=scores,
            fps=fps,
            length_source=_counted(sources),
            approximate=frozenset(v.id for v, word in zip(wanted, sources, strict=True) if word == "rows"),
            classes=self._class_names(scores),
            facts={"file": str(self.file.source), "sha256": self.file.sha256, "unit": self.layout.unit}
            | _steps(scores),
            warnings=(*self.notes, *_length_warnings(sources)),
        )

    def _match(self, videos: Sequence[Video]) -> dict[str, str]:
        if self._pairs is None:
            from pipelines.data.ids import normalise_id, own_id

            spell = normalise_id if self.dataset.entry.ids == "published" else own_id
            known = {video.id for video in videos} | set(self.others)
            self._pairs, extra = files.match(self.file.rows, known, spell)
            self._extra = tuple(extra)
        return self._pairs

    def _class_names(self, scores: Mapping[str, Scores]) -> tuple[str, ...] | None:
        with_classes = [record for record in scores.values() if record.classes is not None]
        if not with_classes:
            return None
        lacking = [record.video_id for record in scores.values() if record.classes is None]
        if lacking:
            raise VerificationError(
                f"video {lacking[0]!r} has no class scores, {len(with_classes)} other videos have", hint="all or none"
            )
        for record in with_classes:
            width = record.classes.shape[2] if record.classes is not None else 0
            if width != len(self.dataset.classes):
                raise VerificationError(
                    f"video {record.video_id!r} has {width} class columns, {self.dataset.name} has {len(self.dataset.classes)}",
                    hint="in this order: " + ", ".join(self.dataset.classes),
                )
        return self.dataset.classes


def pick_device(name: str) -> str:
    """`auto` is the accelerator where there is one."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def known_length(
    video: Video, store: FeatureStore | None, rows: files.Rows | None
) -> tuple[int, str, float | None] | None:
    """(frames, where the number is from, fps): decoded, stated with the scores, counted, published, or demuxed."""
    if store is not None:
        facts = store.facts(video.id)
        return facts.n_frames, "features", facts.fps
    if rows is not None and rows.n_frames is not None:
        return rows.n_frames, "scores file", video.fps
    if video.path.is_dir():
        images = sum(1 for entry in video.path.iterdir() if entry.suffix.lower() in IMAGES)
        if images:
            return images, "frame folder", video.fps
    if video.n_frames is not None:
        return video.n_frames, "published", video.fps
    if video.path.is_file():
        from pipelines.video.decode import probe

        found = probe(video.path)
        return found.expected_frames, "container", found.fps
    return None


def _length(
    video: Video, rows: files.Rows, store: FeatureStore | None, layout: Layout
) -> tuple[int, str, float | None]:
    """As `known_length`; where nothing else is known, the video is as long as its rows."""
    known = known_length(video, store, rows)
    if known is not None:
        return known
    count = rows.values.shape[1]
    if rows.spans is not None:
        return int(rows.spans[-1, 1]), "rows", video.fps
    return layout.offset + count * (layout.clip_frames if layout.unit == "clips" else 1), "rows", video.fps


IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def _length_warnings(sources: Sequence[str]) -> tuple[str, ...]:
    count = _counted(sources)
    told = []
    if count.get("rows"):
        told.append(f"{count['rows']} videos have no known length: their number of score rows was taken for it")
    if count.get("container"):
        told.append(f"{count['container']} videos were not decoded: their length is the container's count of packets")
    return tuple(told)


def _steps(scores: Mapping[str, Scores]) -> dict[str, Any]:
    strides = sorted({record.stride for record in scores.values()})
    crops = sorted({record.crops for record in scores.values()})
    return {"stride": strides[0] if len(strides) == 1 else strides, "crops": [list(names) for names in crops]}


def _counted(words: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return dict(sorted(found.items()))
