"""Mean and deviation over the seeds of a group, in the shape of one metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DRAWS = "draws.npz"  # every metric's value in every bootstrap round, beside metrics.json
OF_MEAN = "of the mean over seeds, the same resampled videos for every seed"
ONCE = ("ci", "definition", "floor", "per_class", "reason")  # not averaged: they belong to one seed or to all alike


def summarise(found: Sequence[Mapping[str, Any]], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """metrics.json of a group: each number the mean over seeds.

    `folders` are the evaluations': where each has its bootstrap rounds, `ci` is the interval of the mean over seeds on
    shared resamples, and `interval` says so; otherwise it is the first seed's own, and says that.
    Beside `value` stand `sd` and `seeds`, beside other numbers `sd_at` and `seeds_at` with their keys. One seed gives its own metrics. The deviation has n - 1 below the line. A number that a seed lacks is null with
    its reason. Never the best seed.
    """
    if len(found) == 1:
        return dict(found[0])
    first = found[0]
    shared = ("schema", "dataset", "split", "part", "videos", "frames", "floors", "ground_truth", "scores", "recipe")
    summary = {key: first[key] for key in shared if key in first}
    summary["identity"] = {key: first.get("identity", {}).get(key) for key in ("subset", "video_list_sha256")}
    summary["model"] = {key: first.get("model", {}).get(key) for key in ("method", "features", "selection")}
    names = list(dict.fromkeys(name for metrics in found for name in metrics["metrics"]))
    summary["metrics"] = {name: _over([metrics["metrics"].get(name, {}) for metrics in found]) for name in names}
    breakdowns = [metrics.get("breakdown", {}) for metrics in found]
    summary["breakdown"] = _over(breakdowns) if all(breakdowns) else {}
    _put_intervals(summary, first, [_draws(folder) for folder in folders])
    summary["seeds"] = [metrics.get("model", {}).get("seed") for metrics in found]
    summary["runs"] = [metrics.get("model", {}).get("run") for metrics in found]
    summary["warnings"] = list(dict.fromkeys(line for metrics in found for line in metrics.get("warnings", ())))
    return summary


def summarise_settings(found: Sequence[Mapping[str, Any]], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """`summarise` for the seeds of one setting; for a sweep one summary a setting, under `settings` by its name.

    Settings are told apart by the run's place in its group (`lr=1e-3/seed-0`); different settings are never averaged.
    """
    by_setting: dict[str, list[int]] = {}
    for index, metrics in enumerate(found):
        folder = metrics.get("model", {}).get("folder")
        by_setting.setdefault(Path(folder).parent.name if folder else "", []).append(index)
    if len(by_setting) == 1:
        return summarise(found, folders)
    shared = ("schema", "dataset", "split", "part", "videos", "frames")
    settings = {
        name: summarise([found[i] for i in members], [folders[i] for i in members] if folders else ())
        for name, members in by_setting.items()
    }
    return {key: found[0][key] for key in shared if key in found[0]} | {"settings": settings}


def _put_intervals(summary: dict[str, Any], first: Mapping[str, Any], draws: Sequence[Mapping[str, Any]]) -> None:
    """Each metric's `ci`: of the mean over seeds where every seed's rounds are there, else the first seed's own."""
    from pipelines.scoring.bootstrap import interval

    shared = bool(draws) and all(draws)
    seed = first.get("model", {}).get("seed")
    summary["interval"] = OF_MEAN if shared else f"of seed {seed} alone"
    for key, entry, own in _entries(summary["metrics"], first["metrics"]):
        rounds = [one[key] for one in draws if key in one]
        if not shared:
            entry["ci"] = own.get("ci")
        elif len(rounds) == len(draws) and len({len(values) for values in rounds}) == 1:
            entry["ci"] = interval(sum(rounds) / len(rounds))


def _entries(merged: Mapping[str, Any], own: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], Mapping[str, Any]]]:
    """(key of its rounds, the merged entry, the first seed's) of every number that may have an interval."""
    found = []
    for name, entry in merged.items():
        if name == "map-iou":
            protocols = [key for key, value in entry.items() if isinstance(value, dict) and "avg" in value]
            found += [(f"{name}:{key}", entry[key], own.get(name, {}).get(key, {})) for key in protocols]
        elif entry.get("value") is not None:
            found.append((name, entry, own.get(name, {})))
    return found


def _draws(folder: Path) -> dict[str, Any]:
    """The bootstrap rounds of an evaluation; {} where it kept none."""
    import numpy as np

    path = folder / DRAWS
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as data:
        return {key: data[key].astype(np.float64) for key in data.files}


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of at least two numbers."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _over(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One metric's objects of all seeds as one: numbers averaged, nested objects likewise."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part.get(key) for part in parts]
        if key in ONCE:
            if key in ("definition", "floor", "reason"):
                merged[key] = next((value for value in values if value is not None), None)
        elif all(isinstance(value, Mapping) for value in values):
            merged[key] = _over([value for value in values if isinstance(value, Mapping)])
        elif all(isinstance(value, float) for value in values):
            merged[key], deviation = mean_sd([float(value) for value in values if value is not None])
            _beside(merged, key, deviation, values)
        elif key == "value":
            merged[key] = None
            merged.setdefault("reason", "not every seed has it")
        elif all(value == values[0] for value in values):
            merged[key] = values[0]
    return merged


def _beside(merged: dict[str, Any], key: str, deviation: float, values: Sequence[Any]) -> None:
    if key == "value":
        merged["sd"], merged["seeds"] = deviation, list(values)
    else:
        merged.setdefault("sd_at", {})[key] = deviation
        merged.setdefault("seeds_at", {})[key] = list(values)
