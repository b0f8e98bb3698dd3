"""Collect what `vad runs table` shows: the newest evaluation of each run, and the papers' numbers of its method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pipelines import artifacts, catalog
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.report.seeds import summarise
from pipelines.report.table import ResultRow, Table, our_row, paper_rows, results_table
from pipelines.store import runs
from pipelines.store.runs import EvalRecord, RunGroup


def results(
    which: Sequence[str],
    root: Path,
    *,
    dataset: str | None,
    split: str | None,
    columns: Sequence[str],
    papers: Literal["show", "leave out"] = "show",
    protocols: Literal["refuse", "split"] = "refuse",
) -> Table:
    """Ours (mean over the seeds of each setting) beside the papers' numbers on one dataset.

    Args:
        which: runs, groups or evaluations; every run on the dataset when empty.
        root: the runs folder.
        dataset, split: which evaluations; the dataset may be left out where only one has been evaluated.
        columns: metric names, `map-iou:<protocol>` for detection.
        papers: whether the numbers of each method's RESULTS follow.
        protocols: what happens to ours of several protocols.

    Raises:
        MissingArtifactError: there is nothing evaluated.
        UsageError: several datasets and none named, or rows of different protocols in one column.
    """
    named = [_named(text, root) for text in which] if which else [_of_group(group) for group in runs.find_groups(root)]
    settings = [part for records in named for part in _settings(records)]
    chosen = dataset or _only_dataset(settings)
    rows: list[ResultRow] = []
    for records in settings:
        newest = _newest(records, chosen, split, columns)
        if newest:
            rows.append(_row(newest, columns))
    if not rows:
        raise MissingArtifactError(f"no run is evaluated on {chosen} in {root}", hint="vad eval --run RUN")
    if papers == "show":
        for method in dict.fromkeys(row.method for row in rows):
            rows += paper_rows(method, _published(method), chosen, columns)
    return results_table(rows, columns, title=chosen, split_protocols=protocols == "split")


def _named(text: str, root: Path) -> list[list[EvalRecord]]:
    """Evaluations by run of what a word means: a group's, or the one evaluation that it names."""
    try:
        return _of_group(runs.resolve(text, root))
    except MissingArtifactError:
        return [runs.resolve_eval(text, root)]


def _of_group(group: RunGroup) -> list[list[EvalRecord]]:
    return [runs.evals(folder) for folder in group.runs]


def _settings(by_run: Sequence[list[EvalRecord]]) -> list[list[list[EvalRecord]]]:
    """Runs of one group by their setting: the seeds of a setting stand together."""
    found: dict[Path, list[list[EvalRecord]]] = {}
    for records in by_run:
        if records:
            found.setdefault(records[0].folder.parent.parent.parent, []).append(records)
    return list(found.values())


def _only_dataset(settings: Sequence[list[list[EvalRecord]]]) -> str:
    names = sorted({str(r.metrics["dataset"]) for by_run in settings for records in by_run for r in records})
    if len(names) != 1:
        raise UsageError(f"evaluations on {', '.join(names) or 'no dataset'}: which one?", hint="--dataset NAME")
    return names[0]


def _newest(
    by_run: Sequence[list[EvalRecord]], dataset: str, split: str | None, columns: Sequence[str]
) -> list[EvalRecord]:
    """One evaluation a seed on the dataset: test videos only, plain protocols first, then most of the asked columns."""
    found = []
    for records in by_run:
        # a table beside the papers' numbers holds test videos alone; val and train evaluations stay in `runs show`
        fitting = [
            r
            for r in records
            if r.metrics["dataset"] == dataset and r.metrics["part"] == "test" and split in (None, r.metrics["split"])
        ]
        if fitting:
            wanted = {column.partition(":")[0] for column in columns}
            best = max((is_plain(r), len(wanted & set(r.metrics["metrics"])), i) for i, r in enumerate(fitting))
            found.append(fitting[best[2]])
    return found


def is_plain(record: EvalRecord) -> bool:
    """Whether nothing was smoothed, scaled, dropped or left out."""
    from pipelines.scoring.protocol import MEAN, Protocol

    recipe, plain = record.artifact.recipe, asdict(Protocol(crops=MEAN))
    keys = ("expand", "crops", "tail", "smooth", "normalise", "drop_first", "drop_last", "compat", "nan")
    whole = recipe.get("videos") is None and not recipe.get("missing") and recipe.get("part") == "test"
    return whole and all(recipe["protocol"].get(key) == plain[key] for key in keys)


def _row(records: Sequence[EvalRecord], columns: Sequence[str]) -> ResultRow:
    first = records[0].metrics
    model: dict[str, Any] = first.get("model", {})
    method = str(model.get("method") or Path(str(model.get("scores_file", "scores"))).name)
    features = [str(need.get("encoder", "?")) for need in model.get("features") or ()]
    summary = summarise([record.metrics for record in records], [record.folder for record in records])
    name = artifacts.video_id_of(records[0].folder.parent.parent.parent.name)
    label = f"{method} {name}" if "=" in name else method
    return our_row(label, features or ["?"], summary, str(model.get("selection", "unknown")), columns)


def _published(method: str) -> Sequence[dict[str, Any]]:
    base = method.partition(" ")[0]
    if base not in catalog.entries("methods"):
        return ()
    return tuple(getattr(catalog.load("methods", base), "RESULTS", ()))
