"""Which evaluations stand in a table beside the papers' numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pipelines.report import results


def record(part: str, split: str = "default") -> Any:
    metrics = {"dataset": "tiny", "split": split, "part": part, "metrics": {"auc": {"value": 0.5}}}
    artifact = SimpleNamespace(recipe={"part": part, "videos": None, "missing": [], "protocol": {}})
    return SimpleNamespace(metrics=metrics, artifact=artifact)


def test_evaluations_of_val_or_train_never_stand_in_the_table() -> None:
    test, val = record("test"), record("val")
    results_is_plain, results.is_plain = results.is_plain, lambda item: True  # every protocol equally plain here
    try:
        found = results._newest(cast(Any, [[test, val], [val]]), "tiny", None, ["auc"])
    finally:
        results.is_plain = results_is_plain
    assert found == [test]
