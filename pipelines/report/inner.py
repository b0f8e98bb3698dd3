"""A method's inner stages by class: PCA and t-SNE, each beside what the eye cannot judge, silhouette and purity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.report.style import CLASS_COLOURS, GREY, MARKERS, figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipelines.records import Event

ROWS = 1500  # clips in a picture; of more, abnormal ones first and then a random choice
MAX_STAGES = 5
PERPLEXITY = 30.0
BEFORE_TSNE = 50  # principal components that t-SNE reads


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's rows of all videos: x (R, D) float32, `labels` (R,) a class each, `videos` (R,) which video."""

    name: str
    x: NDArray[np.float32]
    labels: NDArray[np.str_]
    videos: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well classes lie apart in the stage's own space (standardised, Euclidean).

    `silhouette` in [-1, 1]; `purity`: share of clips whose nearest neighbour **from another video** has their class,
    because neighbours within a video prove nothing; `chance`: the purity of a random neighbour from another video.
    None where there are fewer than two classes.
    """

    silhouette: float | None
    purity: float | None
    chance: float | None


def row_labels(
    events: Sequence[Event], spans: NDArray[np.int64], rows: int, classes: Sequence[str]
) -> NDArray[np.str_]:
    """The class of each of `rows` rows that stand for clips with `spans` (T, 2): the one that most of its frames show.

    A stage of a pyramid has fewer rows than clips: each stands for the same number of neighbouring clips.
    """
    per_row = -(-len(spans) // rows)
    found = []
    for row in range(rows):
        inside = spans[row * per_row : (row + 1) * per_row]
        start, end = (int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else (0, 0)
        found.append(_most(events, start, end, classes[0]))
    return np.array(found, dtype=np.str_)


def sample(stage: Stage, normal: str, *, most: int = ROWS, seed: int = 0) -> Stage:
    """At most `most` rows: abnormal ones fill up to half before normal ones, both chosen at random."""
    if len(stage.x) <= most:
        return stage
    rng = np.random.default_rng(seed)
    abnormal = rng.permutation(np.flatnonzero(stage.labels != normal))
    rest = rng.permutation(np.flatnonzero(stage.labels == normal))
    few = min(len(abnormal), max(most // 2, most - len(rest)))
    keep = np.sort(np.concatenate([abnormal[:few], rest[: most - few]]))
    return Stage(stage.name, stage.x[keep], stage.labels[keep], stage.videos[keep])


def separation(stage: Stage) -> Separation:
    """Silhouette and nearest-neighbour purity of a stage."""
    from sklearn.metrics import pairwise_distances, silhouette_score

    if not 2 <= len(np.unique(stage.labels)) < len(stage.x):
        return Separation(None, None, None)
    far = pairwise_distances(standardised(stage.x))
    score = float(silhouette_score(far, stage.labels, metric="precomputed"))
    far[stage.videos[:, None] == stage.videos[None, :]] = np.inf
    usable = np.isfinite(far).any(axis=1)
    if not usable.any():
        return Separation(score, None, None)
    same = stage.labels[:, None] == stage.labels[None, :]
    others = np.isfinite(far)
    nearest = far.argmin(axis=1)
    purity = same[np.arange(len(nearest)), nearest][usable].mean()
    chance = ((same & others).sum(axis=1)[usable] / others.sum(axis=1)[usable]).mean()
    return Separation(score, float(purity), float(chance))


def standardised(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each column with mean 0 and deviation 1; constant columns are 0."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 1e-12, spread, 1.0))


def pca(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(R, 2) first principal components of standardised rows; a missing second one is 0."""
    from sklearn.decomposition import PCA

    ready = standardised(x)
    if not ready.any():
        return np.zeros((len(x), 2))
    out = PCA(min(2, *x.shape), random_state=0).fit_transform(ready)
    return np.pad(out, ((0, 0), (0, 2 - out.shape[1])))


def tsne(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(R, 2) t-SNE of the first principal components of standardised rows, begun at PCA, seed 0."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    ready = standardised(x)
    if min(ready.shape) > BEFORE_TSNE:
        ready = PCA(BEFORE_TSNE, random_state=0).fit_transform(ready)
    if len(ready) < 5 or not ready.any():
        return pca(x)
    start = "pca" if ready.shape[1] >= 2 else "random"
    perplexity = min(PERPLEXITY, (len(ready) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(ready), dtype=np.float64)


def stages_figure(stages: Sequence[Stage], classes: Sequence[str], *, title: str = "") -> Figure:
    """PCA above t-SNE, one column a stage, the numbers above each column; the normal class small and grey."""
    made = figure(270 * len(stages) + 60, 720)
    present = [name for name in classes if any((stage.labels == name).any() for stage in stages)]
    for column, stage in enumerate(stages):
        words = separation_words(separation(stage))
        for row, (name, project) in enumerate((("PCA", pca), ("t-SNE", tsne))):
            axes = made.add_subplot(2, len(stages), row * len(stages) + column + 1)
            _scatter(axes, project(stage.x), stage.labels, classes)
            if row == 0:
                axes.set_title(f"{shortened(stage.name, 26)}\n{words}")
            if column == 0:
                axes.set_ylabel(name)
    handles = _handles(present, classes)
    made.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * len(stages)))
    if title:
        made.suptitle(title)
    return made


def separation_words(found: Separation) -> str:
    """The numbers in two lines."""
    if found.silhouette is None:
        return "one class\n"
    purity = "–" if found.purity is None or found.chance is None else f"{found.purity:.2f} (chance {found.chance:.2f})"
    return f"silhouette {found.silhouette:.2f}\npurity {purity}"


def _scatter(axes: Axes, xy: NDArray[np.float64], labels: NDArray[np.str_], classes: Sequence[str]) -> None:
    for index, name in enumerate(classes):
        mine = labels == name
        axes.plot(xy[mine, 0], xy[mine, 1], linestyle="none", markeredgewidth=0, **_mark(index))
    axes.set(xticks=[], yticks=[], box_aspect=1)
    axes.spines[["top", "right"]].set_visible(True)


def _mark(index: int) -> dict[str, Any]:
    if index == 0:
        return {"marker": ".", "color": GREY, "markersize": 3, "alpha": 0.45}
    place = index - 1
    return {
        "marker": MARKERS[place % len(MARKERS)],
        "color": CLASS_COLOURS[place % len(CLASS_COLOURS)],
        "markersize": 3.4,
        "alpha": 0.8,
    }


def _handles(present: Sequence[str], classes: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [], [], linestyle="none", markeredgewidth=0, label=shortened(name, 22), **_mark(list(classes).index(name))
        )
        for name in present
    ]


def _most(events: Sequence[Event], start: int, end: int, normal: str) -> str:
    """The label of the event that covers most of [start, end); normal where none covers half."""
    shared: dict[str, int] = {}
    for event in events:
        inside = min(end, event.end_frames) - max(start, event.start_frames)
        if inside > 0:
            shared[event.label] = shared.get(event.label, 0) + inside
    label, frames = max(shared.items(), key=lambda pair: pair[1], default=(normal, 0))
    return label if 2 * frames >= end - start and frames else normal
