"""From a number back to the frames: evaluation, run, features, weights, manifest entry, versions, commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipelines import artifacts
from pipelines.errors import VadError

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset
    from pipelines.store.runs import EvalRecord


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the chain: a title, its facts in order, and long texts (YAML) that are folded away."""

    title: str
    facts: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, str], ...] = ()


def lineage(record: EvalRecord, dataset: Dataset) -> list[Link]:
    """Evaluation, run, each features artefact and the dataset, as far as they can be read."""
    run = _run_of(record)
    links = [_evaluation(record)]
    links += [_run(record, run), *map(_features, run.recorded.get("features", ()))] if run else [_brought(record)]
    return [*links, _dataset(record, dataset), _versions(record, run)]


def _run_of(record: EvalRecord) -> artifacts.Artifact | None:
    """The run's artefact: two folders above the evaluation, wherever both were moved to together."""
    if not record.metrics["model"].get("run"):
        return None
    for folder in (record.folder.parent.parent, Path(str(record.metrics["model"].get("folder")))):
        try:
            found = artifacts.read(folder)
        except VadError:
            continue
        if found.id == record.metrics["model"]["run"]:
            return found
    return None


def _evaluation(record: EvalRecord) -> Link:
    identity, truth = record.metrics["identity"], record.metrics["ground_truth"]
    facts = {
        "id": record.artifact.id,
        "made": identity.get("created"),
        "command": identity.get("command"),
        "truth": f"{truth.get('version')} ({str(truth.get('fingerprint'))[:12]})",
        "videos": f"{record.metrics['videos']}, list {str(identity.get('video_list_sha256'))[:12]}",
        "lengths from": ", ".join(f"{k} ({v})" for k, v in truth.get("length_source", {}).items()),
        "commit": identity.get("commit"),
    }
    return Link("Evaluation", _told(facts), (("protocol", _yaml(record.artifact.recipe.get("protocol"))),))


def _run(record: EvalRecord, run: artifacts.Artifact) -> Link:
    model, recipe = record.metrics["model"], run.recipe
    facts = {
        "id": run.id,
        "made": run.created,
        "method": recipe.get("method"),
        "trained on": f"{recipe.get('dataset')} / {recipe.get('split')}, {run.counts.get('train', '?')} videos",
        "seed": recipe.get("seed"),
        "selection": recipe.get("selection"),
        "weights sha256": model.get("weights_sha256"),
        "config sha256": model.get("config_sha256"),
    }
    return Link("Run", _told(facts), (("configuration", _yaml(recipe.get("config"))),))


def _brought(record: EvalRecord) -> Link:
    model = record.metrics["model"]
    return Link(
        "Scores that were brought", _told({"file": model.get("scores_file"), "sha256": model.get("scores_sha256")})
    )


def _features(need: Mapping[str, Any]) -> Link:
    recipe = need.get("recipe", {})
    facts = {
        "id": need.get("id"),
        "width": need.get("dim"),
        "clips": f"{recipe.get('clip_len')} frames every {recipe.get('stride')}",
        "crops": ", ".join(recipe.get("crops", ())),
        "decoder": recipe.get("decoder"),
        "precision": recipe.get("precision"),
        "weights sha256": recipe.get("weights_sha256") or "no weights",
    }
    return Link(f"Features: {need.get('encoder')}", _told(facts), (("recipe", _yaml(recipe)),))


def _dataset(record: EvalRecord, dataset: Dataset) -> Link:
    entry = json.loads(dataset.entry.model_dump_json(exclude_defaults=True))
    facts = {
        "title": dataset.title,
        "split": record.metrics.get("split"),
        "manifest": str(dataset.manifest_path),
        "licence": dataset.licence,
        "link": dataset.link,
        "citation": dataset.citation,
    }
    return Link(f"Dataset: {dataset.name}", _told(facts), (("manifest entry", _yaml({dataset.name: entry})),))


def _versions(record: EvalRecord, run: artifacts.Artifact | None) -> Link:
    """Libraries of the evaluation; of the training beside them where they differ."""
    now, then = record.artifact.versions, run.versions if run else {}
    facts = {name: f"{v} (trained with {then[name]})" if then.get(name, v) != v else v for name, v in now.items()}
    return Link("Versions", _told(facts))


def again(record: EvalRecord) -> str:
    """The command that evaluated, with the run named by its id, to which `--threshold X` can be added; "" if unknown."""
    command, run = str(record.metrics["identity"].get("command") or ""), record.metrics["model"].get("run")
    return f"{command} --run {str(run)[:8]}" if command and run else command


def _told(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in facts.items() if value not in (None, "", "None"))


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100) if value else ""
