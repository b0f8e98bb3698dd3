"""What scores somebody's own videos: a trained run, or the floor where there is none; the whole of it in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.progress import Progress, Silent
from pipelines.records import Scores

if TYPE_CHECKING:
    from pipelines.extraction.adhoc import Encoded, Wanted
    from pipelines.training.checkpoint import LoadedRun

FLOOR = "motion-scalar"
QUANTILE = "0.99"
FLOOR_SMOOTH_S = 0.5  # sigma of the Gaussian where no run says how its threshold was learnt [ours]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A run, or the floor: the streams it needs, its scores of one video, and its threshold where it learnt one.

    `live_clips` is how many clips up to a clip its score needs (1: itself alone), None for the whole video.
    """

    name: str
    wanted: tuple[Wanted, ...]
    score: Callable[[Encoded], Scores]
    classes: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_source: str = ""
    smooth: str | None = None
    expand: Literal["repeat", "linear", "bins32"] = "repeat"
    live_clips: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def filter(self, fps: float | None) -> str:
        """How its frame scores are smoothed (as in `vad eval --smooth`) unless somebody says otherwise."""
        return self.smooth or f"gaussian:{FLOOR_SMOOTH_S * (fps or 25):g}"


def load_scorer(
    run: str | None, *, device: str = "cpu", runs_dir: Path | None = None, progress: Progress = Silent()
) -> Scorer:
    """The run that is meant, or the floor where none was named and none exists.

    Raises:
        MissingArtifactError: a run was named and is not there.
        UsageError: its encoder is not the installed one, or its method reads stored frames.
    """
    from pipelines.store import runs

    root = artifacts.resolve_roots(runs_dir=runs_dir).runs
    if run != FLOOR:
        try:
            group = runs.resolve(run or runs.LATEST, root)
        except MissingArtifactError:
            if run is not None:
                raise
            progress.note(f"no run in {root}: scoring with {FLOOR} (how much moves); `vad train` makes a run")
        else:
            if len(group.runs) > 1:
                progress.note(f"{group.folder} has {len(group.runs)} runs: scoring with {group.runs[0].name}")
            return _of_run(group.runs[0], device)
    return _floor(device)


def _of_run(folder: Path, device: str) -> Scorer:
    from pipelines.extraction.adhoc import wanted_of
    from pipelines.extraction.plan import FeaturesRecipe
    from pipelines.scoring.infer import score_features
    from pipelines.training.checkpoint import FRAMES, load_run

    loaded = load_run(folder, device=device)
    if loaded.kind == FRAMES:
        raise UsageError(
            f"{loaded.method_name} ({folder}) reads stored frames; loose videos are scored by runs on features alone",
            hint="put them into a dataset (vad data init), vad extract NAME --encoder frames, vad eval --dataset NAME; "
            f"or --run of another run, or --run {FLOOR}",
        )
    wanted = tuple(wanted_of(need.stream, FeaturesRecipe.model_validate(need.recipe)) for need in loaded.features)
    recorded = loaded.artifact.recorded
    smooth, levels = next(iter(recorded.get("thresholds_smoothed", {}).items()), ("none", loaded.thresholds))
    share = str(recorded.get("threshold_quantile", QUANTILE))
    return Scorer(
        name=f"{loaded.method_name} ({folder})",
        wanted=wanted,
        score=lambda one: score_features(loaded, one.arrays, one.facts, video_id=one.video_id, device=device),
        classes=loaded.classes,
        threshold=levels.get(share),
        threshold_source=f"{100 * float(share):g} % of the {recorded.get('thresholds_from', 'frame scores of normal videos')}",
        smooth=smooth,
        expand=loaded.method.expand,
        live_clips=loaded.method.live_clips,
        facts=_facts_of(loaded),
    )


def _facts_of(loaded: LoadedRun) -> dict[str, Any]:
    features = {need.encoder: need.id for need in loaded.features}
    return {"run": loaded.artifact.id, "method": loaded.method_name, "dataset": loaded.dataset, "features": features}


def _floor(device: str) -> Scorer:
    from pipelines import catalog
    from pipelines.extraction.adhoc import Wanted
    from pipelines.extraction.plan import Sampling, choose_encoders, make_recipe
    from pipelines.methods._base import Resources, Shape
    from pipelines.scoring.infer import score_joined
    from pipelines.training.inputs import Inputs

    (choice,) = choose_encoders(["motion"])
    recipe = make_recipe(choice, sampling=Sampling(clip_len=8, stride=8), crops=("center",))
    dim = choice.encoder.dim
    shape = Shape(dim, {"motion": slice(0, dim)}, ("normal", "abnormal"), ("center",), recipe.clip_len, recipe.stride)
    module = catalog.load("methods", FLOOR)
    config = module.Config()
    method = module.build(config, shape, Resources()).to(device).eval()
    inputs = Inputs(dim, shape.streams, config.data.model_copy(update={"normalise": "none", "standardise": False}))

    def score(one: Encoded) -> Scores:
        values = one.arrays["motion"]
        return score_joined(method, inputs, shape, values, one.facts, one.facts.crops, one.video_id, device=device)

    wanted = (Wanted("motion", choice, recipe),)
    return Scorer(FLOOR, wanted, score, live_clips=method.live_clips, facts={"method": FLOOR})
