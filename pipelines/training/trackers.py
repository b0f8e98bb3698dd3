"""Where a training's numbers go: train.csv always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipelines import artifacts


class Tracker(Protocol):
    """A sink of logged values."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """The values of one step (finished steps are counted from 1, over all phases)."""

    def close(self) -> None:
        """Everything is on disk afterwards."""


class CsvLog:
    """train.csv: one row a logged step; a column that appears later is empty in earlier rows.

    Args:
        path: the file; rows of a stopped training are kept up to `upto`.
        upto: the last step that is really done (the checkpoint's), 0 for a fresh start.
    """

    def __init__(self, path: Path, *, upto: int = 0) -> None:
        self.path = path
        self.rows = [row for row in read_log(path) if int(row["step"]) <= upto]
        self.columns: list[str] = list(dict.fromkeys(key for row in self.rows for key in row if row[key] != ""))
        self._rewrite()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        row = {"step": str(step)} | {key: _text(value) for key, value in values.items()}
        self.rows.append(row)
        new = [key for key in row if key not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
        else:
            with self.path.open("a", encoding="utf-8", newline="") as handle:
                handle.write(_lines([row], self.columns, header=False))

    def close(self) -> None:
        """Every row is written at once, nothing is buffered."""

    def _rewrite(self) -> None:
        artifacts.write_text(self.path, _lines(self.rows, self.columns, header=True))


class TensorBoardLog:
    """Scalars as TensorBoard events under `folder`."""

    def __init__(self, folder: Path, *, upto: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=upto + 1 if upto else None)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, float | int):
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


def open_trackers(folder: Path, *, upto: int = 0) -> list[Tracker]:
    """The csv log, and TensorBoard where it is installed."""
    trackers: list[Tracker] = [CsvLog(folder / "train.csv", upto=upto)]
    if importlib.util.find_spec("tensorboard") is not None:
        trackers.append(TensorBoardLog(folder / "tensorboard", upto=upto))
    return trackers


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a train.csv as text; a last line that was cut is left out, a missing file has none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return [row for row in csv.DictReader(handle) if (row.get("step") or "").isdigit() and None not in row.values()]


def _lines(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n", extrasaction="ignore")
    if header and columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
