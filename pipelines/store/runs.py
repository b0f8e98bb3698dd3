"""Finding runs and the evaluations made of them: `latest`, ids, paths, method names, groups of seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, UsageError, VerificationError

RUN = "run"
EVAL = "eval"
GROUP_FILE = "group.json"
LATEST = "latest"
EVALS = "evals"
REFEREE = "referee"
METRICS_FILE = "metrics.json"
MIN_ID = 4  # shorter prefixes of an id are not taken as one


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that one command trained: seeds and, for a sweep, settings; or the one run that was asked for.

    `folder` is the group's folder (the run's own when there is no group); `runs` its run folders in natural order.
    """

    folder: Path
    runs: tuple[Path, ...]

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a list of runs shows of one group, read from artifact.json alone.

    `evals` maps `<dataset>-<split>` to the number of evaluations over the group's runs; `selection` is how the weights
    were chosen ("last", "val", "best-on-test").
    """

    group: RunGroup
    method: str
    dataset: str
    split: str
    seeds: tuple[int, ...]
    selection: str
    features: tuple[str, ...]
    created: str
    latest: bool
    evals: dict[str, int]


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One evaluation on disk: its folder, its artefact and its metrics.json."""

    folder: Path
    artifact: Artifact
    metrics: dict[str, Any]


def find_groups(root: Path) -> list[RunGroup]:
    """Every group below the runs folder, oldest first."""
    members: dict[Path, list[Path]] = {}
    for folder in artifacts.find(root, RUN):
        members.setdefault(_group_of(folder, root), []).append(folder)
    groups = [RunGroup(folder, tuple(sorted(runs, key=natural))) for folder, runs in members.items()]
    return sorted(groups, key=lambda group: (artifacts.read(group.runs[0]).created, str(group.folder)))


def resolve(text: str, root: Path) -> RunGroup:
    """The group or run that `text` means: `latest`, a folder, an id (or its first digits), a method, `dataset/method`.

    Args:
        text: as typed after `--run`.
        root: the runs folder.

    Raises:
        MissingArtifactError: nothing matches (exit 4).
        UsageError: several match; all are listed (exit 2).
    """
    if text == LATEST:
        return _latest(root)
    for folder in (Path(text).expanduser(), root / text):
        if folder.is_dir() and (group := _at(folder)):
            return group
    groups = find_groups(root)
    found = _matching(text, groups)
    if not found:
        from pipelines.recipe import suggest  # here, so that listing needs no pydantic

        known = sorted({artifacts.read(group.runs[0]).recipe.get("method", "") for group in groups} | {LATEST})
        raise MissingArtifactError(
            f"no run matches {text!r} in {root}{suggest(text, known)}",
            hint="`vad runs ls`, or `vad train DATASET` first",
        )
    if len(found) > 1:
        lines = "".join(f"\n  {group.folder}" for group in found)
        raise UsageError(f"{len(found)} runs match {text!r}:{lines}", hint="name one by its folder or more of its id")
    return found[0]


def only_run(text: str, root: Path) -> Path:
    """The folder of the one run that `text` means.

    Raises:
        MissingArtifactError: none.
        UsageError: a group of several seeds or settings; each is listed.
    """
    group = resolve(text, root)
    if len(group.runs) > 1:
        lines = "".join(f"\n  {folder}" for folder in group.runs)
        raise UsageError(f"{text!r} means {len(group.runs)} runs:{lines}", hint="name one by its folder")
    return group.runs[0]


def facts(group: RunGroup, root: Path) -> RunFacts:
    """What `vad runs ls` shows of a group."""
    read = [artifacts.read(folder) for folder in group.runs]
    recipe = read[0].recipe
    counts: dict[str, int] = {}
    for record in [record for folder in group.runs for record in evals(folder)]:
        key = f"{record.metrics.get('dataset')}-{record.metrics.get('split')}"
        counts[key] = counts.get(key, 0) + 1
    return RunFacts(
        group=group,
        method=str(recipe.get("method", "?")),
        dataset=str(recipe.get("dataset", "?")),
        split=str(recipe.get("split", "?")),
        seeds=tuple(int(artifact.recipe.get("seed", 0)) for artifact in read),
        selection=str(recipe.get("selection", "?")),
        features=tuple(str(need.get("encoder", "?")) for need in recipe.get("features", ())),
        created=read[0].created,
        latest=_latest_folder(root) == group.folder,
        evals=counts,
    )


def evals(run: Path) -> list[EvalRecord]:
    """Every complete evaluation of a run, oldest first."""
    return records(run / EVALS)


def referee_evals(root: Path, dataset: str | None = None) -> list[EvalRecord]:
    """Every referee evaluation below the runs folder, of one dataset or of all."""
    return records(root / REFEREE / artifacts.folder_name(dataset) if dataset else root / REFEREE)


def resolve_eval(text: str, root: Path, *, dataset: str | None = None) -> list[EvalRecord]:
    """The newest evaluation of each run that `text` means, or the evaluation whose folder or id it is.

    Args:
        text: a run as in `resolve`, an eval folder, or the first digits of an eval id.
        root: the runs folder.
        dataset: take evaluations on this dataset only.

    Raises:
        MissingArtifactError: nothing matches, or a run has no evaluation (the hint has the command).
        UsageError: several match.
    """
    for folder in (Path(text).expanduser(), root / text):
        if (folder / METRICS_FILE).is_file():
            return [read_eval(folder)]
    if len(text) >= MIN_ID and (hits := [r for r in all_evals(root) if r.artifact.id.startswith(text)]):
        if len({r.artifact.id for r in hits}) > 1:
            lines = "".join(f"\n  {record.folder}" for record in hits)
            raise UsageError(f"{len(hits)} evaluations match {text!r}:{lines}", hint="name one by its folder")
        return hits[-1:]
    group = resolve(text, root)
    return [_newest(folder, dataset) for folder in group.runs]


def all_evals(root: Path) -> list[EvalRecord]:
    """Every evaluation below the runs folder: of runs, then of brought scores."""
    of_runs = [record for group in find_groups(root) for folder in group.runs for record in evals(folder)]
    return of_runs + referee_evals(root)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key under which `seed-2` comes before `seed-10`."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _group_of(run: Path, root: Path) -> Path:
    for parent in run.parents:
        if (parent / GROUP_FILE).is_file():
            return parent
        if parent == root:
            break
    return run.parent if run.name.startswith("seed-") else run


def _at(folder: Path) -> RunGroup | None:
    """The run or the group that stands in `folder`, None where neither does."""
    folder = folder.absolute()
    if (folder / artifacts.FILE).is_file():
        return RunGroup(folder, (folder,)) if artifacts.read(folder).kind == RUN else None
    members = tuple(sorted(artifacts.find(folder, RUN), key=natural))
    is_group = (folder / GROUP_FILE).is_file() or (members and all(run.parent == folder for run in members))
    return RunGroup(folder, members) if members and is_group else None


def _latest_folder(root: Path) -> Path | None:
    try:
        text = (root / LATEST).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return (root / text) if text else None


def _latest(root: Path) -> RunGroup:
    folder = _latest_folder(root)
    group = _at(folder) if folder is not None and folder.is_dir() else None
    if group is None:
        gone = f": {folder}, named by {root / LATEST}, is gone" if folder is not None else f" in {root}"
        raise MissingArtifactError(f"there is no latest run{gone}", hint="`vad train DATASET` makes one; `vad runs ls`")
    return group


def _matching(text: str, groups: Sequence[RunGroup]) -> list[RunGroup]:
    found: list[RunGroup] = []
    for group in groups:
        recipe = artifacts.read(group.runs[0]).recipe
        method = str(recipe.get("method", ""))
        exact = text in (method, f"{recipe.get('dataset')}/{method}", group.name)
        if exact or (len(text) >= MIN_ID and group.name.startswith(text)):
            found.append(group)
        elif len(text) >= MIN_ID:
            found += [RunGroup(run, (run,)) for run in group.runs if artifacts.read(run).id.startswith(text)]
    return found


def _newest(run: Path, dataset: str | None) -> EvalRecord:
    found = [r for r in evals(run) if dataset is None or r.metrics.get("dataset") == dataset]
    if not found:
        where = f" on {dataset}" if dataset else ""
        raise MissingArtifactError(f"the run {run} has no evaluation{where}", hint=f"vad eval --run {run}")
    return found[-1]


def records(folder: Path) -> list[EvalRecord]:
    """Every complete evaluation below `folder`, oldest first."""
    found = [read_eval(path) for path in artifacts.find(folder, EVAL) if (path / METRICS_FILE).is_file()]
    return sorted(found, key=lambda record: (record.artifact.created, record.folder.name))


def read_eval(folder: Path) -> EvalRecord:
    """The evaluation in `folder`.

    Raises:
        VerificationError: its metrics.json cannot be read.
        MissingArtifactError: it is no artefact.
    """
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"cannot read {folder / METRICS_FILE}: {error}") from error
    return EvalRecord(folder, artifacts.read(folder), metrics)
