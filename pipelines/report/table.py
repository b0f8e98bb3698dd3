"""Tables of results: one evaluation's metrics, and ours beside the papers'; csv, markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.errors import UsageError

Form = Literal["text", "csv", "markdown", "latex"]
FORMS: tuple[Form, ...] = ("text", "csv", "markdown", "latex")
KNOW_NOTHING = ("constant", "random", "centre", "length")  # floors that see neither the video nor its label
SHOWN_PROTOCOLS = ("vadclip", "abnormal-only")
ON_TEST = "best-on-test"
MARK = "†"
NOT_STATED = "as published"
OPERATING = "operating"
FIGURES = (
    ("fa_per_hour", "false alarms per hour", 1, ""),
    ("far@theta", "normal frames above", 100, " %"),
    ("hit_rate", "events hit", 100, " %"),
    ("delay_s", "mean delay", 1, " s"),
    ("event_precision", "event precision", 100, " %"),
    ("event_recall", "event recall", 100, " %"),
    ("eer", "equal error rate", 100, " %"),
    ("fpr@tpr95", "FPR at 95 % TPR", 100, " %"),
    ("brier", "Brier", 1, ""),
    ("calibration_error", "calibration error", 1, ""),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text cells, and the sentences that stand below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a table: a fraction of 1, its interval, its floors by name, what it was counted over."""

    name: str
    value: float | None
    ci: tuple[float, float] | None = None
    sd: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    n: int | None = None
    reason: str = ""

    @property
    def highest_floor(self) -> tuple[str, float] | None:
        """The best of the floors that know nothing of the video."""
        known = [(name, self.floors[name]) for name in KNOW_NOTHING if name in self.floors]
        return max(known, key=lambda pair: pair[1], default=None)

    @property
    def near_floor(self) -> bool:
        """Whether the interval (or a deviation over seeds) reaches down to the highest floor."""
        floor = self.highest_floor
        if floor is None or self.value is None:
            return False
        return floor[1] >= (self.ci[0] if self.ci else self.value - (self.sd or 0.0))


def numbers(metrics: Mapping[str, Any], *, protocols: Sequence[str] = SHOWN_PROTOCOLS) -> list[Number]:
    """The numbers of a metrics.json worth a line each, `map-iou` once a protocol (its average over IoU).

    Args:
        metrics: the whole metrics.json, of one seed or summarised over seeds.
        protocols: which detection protocols are shown.
    """
    found: list[Number] = []
    for name, entry in metrics["metrics"].items():
        if name == "map-iou" and entry.get("value", 0) is not None:
            found += [_detection(f"{name} {p}", entry[p]) for p in protocols if isinstance(entry.get(p), Mapping)]
        else:
            found.append(_number(name, entry))
    return found


def metric_table(metrics: Mapping[str, Any], *, title: str = "", protocols: Sequence[str] = SHOWN_PROTOCOLS) -> Table:
    """Metric, value, interval, floor, n of one evaluation in points, with what must be said below."""
    rows, notes = [], []
    everything = numbers(metrics, protocols=protocols)
    listed = [one for one in everything if one.value is not None and one.name != OPERATING]
    for one in listed:
        floor = one.highest_floor
        rows.append(
            (
                one.name,
                points(one.value) + (f" ± {points(one.sd)}" if one.sd is not None else ""),
                f"[{points(one.ci[0])}, {points(one.ci[1])}]" if one.ci else "-",
                f"{points(floor[1])} {floor[0]}" + (" !" if one.near_floor else "") if floor else "-",
                f"{one.n:,}" if one.n is not None else "-",
            )
        )
    near = [one.name for one in listed if one.near_floor]
    notes += _class_notes(metrics, protocols)
    if "interval" in metrics and any(one.ci for one in listed):
        notes.append(f"intervals {metrics['interval']}")
    if near:
        notes.append(f"! within its interval of a floor that knows nothing of the video: {', '.join(near)}")
    oracle = {one.name: one.floors["video-oracle"] for one in listed if "video-oracle" in one.floors}
    if oracle:
        notes.append("the true video label alone gives " + ", ".join(f"{n} {points(v)}" for n, v in oracle.items()))
    if (entry := metrics["metrics"].get(OPERATING, {})).get("value") is not None:
        notes.append(operating_words(entry))
    reasons: dict[str, list[str]] = {}
    for one in everything:
        if one.value is None:
            reasons.setdefault(one.reason, []).append(one.name)
    notes += [f"no {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return Table(title, ("metric", "value", "95 % interval", "floor", "n"), tuple(rows), tuple(notes))


def _class_notes(metrics: Mapping[str, Any], protocols: Sequence[str]) -> list[str]:
    """What a reader of class and detection numbers must know: derived classes, a protocol's ceiling."""
    notes = []
    entry = metrics["metrics"].get("map-iou", {})
    if isinstance(metrics.get("scores", {}).get("classes"), str) and any(p in entry for p in protocols):
        notes.append(f"map-iou: class probabilities {metrics['scores']['classes']}: (1 - s, s)")
    ceiling = entry.get("vadclip", {}).get("ceiling") if "vadclip" in protocols else None
    if isinstance(ceiling, int | float) and ceiling < 1:
        notes.append(
            f"vadclip averages over every class, also those without an event: at most {points(float(ceiling))}"
        )
    return notes


def operating_words(entry: Mapping[str, Any]) -> str:
    """The operating figures that are known, in one line with their units."""
    threshold = entry.get("threshold")
    told = [
        f"at threshold {threshold:.4g} ({entry.get('threshold_source')})" if threshold is not None else "no threshold"
    ]
    for key, words, scale, unit in FIGURES:
        value = entry.get(key)
        if isinstance(value, int | float):
            told.append(f"{words} {scale * value:.3g}{unit}")
    return "operating: " + ", ".join(told)


def protocol_words(metrics: Mapping[str, Any]) -> str:
    """The protocol of an evaluation in one line: truth, lengths, post-processing, videos."""
    recipe, truth, scores = metrics.get("recipe", {}), metrics.get("ground_truth", {}), metrics.get("scores", {})
    parts = [f"truth {truth.get('version', '?')}"]
    split, part = metrics.get("split", "default"), metrics.get("part", "test")
    parts += [f"split {split}"] * (split != "default") + [f"{part} part, not test"] * (part != "test")
    preset = recipe.get("preset")
    parts.append(f"preset {preset}" if preset else f"smooth {recipe.get('smooth', 'none')}")
    if not preset and recipe.get("normalise", "none") != "none":
        parts.append(f"{recipe['normalise']} per video")
    dropped = [recipe.get("drop_first", 0) or 0, recipe.get("drop_last", 0) or 0]
    if any(dropped):
        parts.append(f"{dropped[0]} first and {dropped[1]} last frames dropped")
    if scores.get("zero_shot"):
        parts.append("classes zero-shot from the dataset's words")
    parts += [f"expand {scores.get('expand', '?')}", f"tail {scores.get('tail', '?')}"]
    if len((scores.get("crops") or [[]])[0]) > 1 or scores.get("crop_rule", "mean") != "mean":
        parts.append(f"crops {scores.get('crop_rule')}")
    if metrics.get("identity", {}).get("subset") or truth.get("missing"):
        parts.append(f"{metrics['videos']} videos only")
    return ", ".join(parts)


def totals_words(metrics: Mapping[str, Any]) -> list[str]:
    """Frames and positives beside the known totals: of the real lengths, and of the evaluated frames where they differ."""
    truth = metrics.get("ground_truth", {})
    told = [truth.get(key, {}).get("message") for key in ("known_totals", "evaluated_totals")]
    return [str(message) for message in told if message]


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row of ours beside the papers': who, how, and the numbers by column name (fractions of 1)."""

    method: str
    source: str
    features: str
    protocol: str
    selection: str
    seeds: int
    values: Mapping[str, Number]


def results_table(
    rows: Sequence[ResultRow], columns: Sequence[str], *, title: str = "", split_protocols: bool = False
) -> Table:
    """Ours beside the papers': method, source, features, selection, seeds, protocol, then one column a metric.

    A number chosen on the test set is marked. Our rows must share one protocol: a column never mixes two.

    Args:
        rows: ours and the papers'.
        columns: metric names, `map-iou:<protocol>` for detection.
        title: above the table.
        split_protocols: give each protocol columns of its own instead of refusing.

    Raises:
        UsageError: rows of different protocols would stand in one column; each is listed.
    """
    ours = list(dict.fromkeys(row.protocol for row in rows if row.source == "ours"))
    if len(ours) > 1 and not split_protocols:
        told = "".join(f"\n  {row.method}: {row.protocol}" for row in rows if row.source == "ours")
        raise UsageError(
            f"{len(ours)} protocols would stand in one column:{told}",
            hint="name evaluations of one protocol, or add --split-protocols for columns of their own",
        )
    shown = [(name, protocol) for protocol in (ours if len(ours) > 1 else [None]) for name in columns]
    letters = {protocol: chr(ord("A") + index) for index, protocol in enumerate(ours)}
    head = ("method", "source", "features", "selection", "seeds", "protocol")
    names = tuple(name if protocol is None else f"{name} [{letters[protocol]}]" for name, protocol in shown)
    body = []
    for row in rows:
        cells = [row.method, row.source, row.features, row.selection, str(row.seeds) if row.seeds else "-"]
        cells.append(letters.get(row.protocol, row.protocol) if row.source == "ours" else row.protocol)
        for name, protocol in shown:
            fits = protocol is None or (row.source == "ours" and row.protocol == protocol)
            cells.append(_cell(row, row.values.get(name)) if fits else "-")
        body.append(tuple(cells))
    notes = [f"{letters[protocol]}: {protocol}" for protocol in ours]
    if any(row.selection == ON_TEST for row in rows):
        notes.append(f"{MARK} weights chosen on the test set")
    if any(row.source != "ours" for row in rows):
        notes.append("papers' numbers are as published; their protocol is theirs")
    return Table(title, head + names, tuple(body), tuple(notes))


def paper_rows(
    method: str, results: Sequence[Mapping[str, Any]], dataset: str, columns: Sequence[str]
) -> list[ResultRow]:
    """The published numbers of a method on a dataset, one row per source and features; ablations are left out.

    A method's RESULTS hold points: `value`, or for `map-iou` its `avg`, with `protocol` and `source` where stated.
    """
    rows: dict[tuple[str, str, str, str], dict[str, Number]] = {}
    for item in results:
        column = item.get("metric", "")
        if column == "map-iou":
            column = f"map-iou:{item.get('protocol', 'vadclip')}"
        value = item.get("value", item.get("avg"))
        if item.get("dataset") != dataset or "set" in item or column not in columns or value is None:
            continue
        key = (
            str(item.get("source", "paper")),
            str(item.get("features", "?")),
            str(item.get("selection", "?")),
            str(item.get("protocol", NOT_STATED)),
        )
        rows.setdefault(key, {}).setdefault(column, Number(column, float(value) / 100))
    return [
        ResultRow(method, source, features, protocol, selection, 0, values)
        for (source, features, selection, protocol), values in rows.items()
    ]


def our_row(
    method: str, features: Sequence[str], summary: Mapping[str, Any], selection: str, columns: Sequence[str]
) -> ResultRow:
    """A row from the (summarised) metrics.json of a group of seeds."""
    protocols = [column.partition(":")[2] for column in columns if ":" in column]
    listed = {one.name.replace(" ", ":"): one for one in numbers(summary, protocols=protocols)}
    seeds = len(summary.get("seeds", ())) or 1
    return ResultRow(method, "ours", "+".join(features), protocol_words(summary), selection, seeds, listed)


def render(table: Table, form: Form) -> str:
    """The table as csv, markdown or LaTeX (booktabs); `text` as aligned columns."""
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([table.columns, *table.rows])
        return out.getvalue()
    if form == "markdown":
        head = [_line(table.columns), "|" + "|".join(" --- " for _ in table.columns) + "|"]
        return "\n".join([*head, *(_line(row) for row in table.rows), *(f"\n{note}" for note in table.notes)]) + "\n"
    if form == "latex":
        return _latex(table)
    widths = [max(len(cell) for cell in column) for column in zip(table.columns, *table.rows, strict=True)]
    lines = [table.columns, tuple("-" * width for width in widths), *table.rows]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*([table.title] if table.title else []), *text, *table.notes]) + "\n"


def points(value: float | None) -> str:
    """A fraction of 1 as points with two decimals; `-` for nothing."""
    return "-" if value is None else f"{100 * value:.2f}"


def _number(name: str, entry: Mapping[str, Any]) -> Number:
    value, ci, sd = entry.get("value"), entry.get("ci"), entry.get("sd")
    return Number(
        name,
        None if value is None else float(value),
        (float(ci[0]), float(ci[1])) if ci else None,
        float(sd) if isinstance(sd, int | float) else None,
        {k: float(v) for k, v in (entry.get("floor") or {}).items() if isinstance(v, int | float)},
        entry.get("n"),
        str(entry.get("reason", "")),
    )


def _detection(name: str, entry: Mapping[str, Any]) -> Number:
    """A protocol's average over IoU as one number."""
    if entry.get("value", 0) is None:
        return Number(name, None, reason=str(entry.get("reason", "")))
    ci, sd, floor = entry.get("ci"), entry.get("sd_at"), entry.get("floor")
    if isinstance(ci, Mapping):
        ci = ci.get("avg")
    return _number(
        name,
        {
            "value": entry.get("avg"),
            "ci": ci,
            "sd": sd.get("avg") if isinstance(sd, Mapping) else None,
            "floor": floor,
            "n": entry.get("n"),
        },
    )


def _cell(row: ResultRow, number: Number | None) -> str:
    if number is None or number.value is None:
        return "-"
    mark = MARK if row.selection == ON_TEST else ""
    return points(number.value) + (f" ± {points(number.sd)}" if number.sd is not None else "") + mark


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$",
}  # fmt: skip


def _latex(table: Table) -> str:
    def escape(text: str) -> str:
        return "".join(LATEX.get(char, char) for char in text)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(escape(cell) for cell in cells) + r" \\"

    spec = "".join("r" if _numeric(table, index) else "l" for index in range(len(table.columns)))
    body = [line(row) for row in table.rows]
    notes = [f"% {note}" for note in table.notes]
    head = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", line(table.columns), r"\midrule"]
    return "\n".join([*notes, *head, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows]
    return bool(cells) and all(cell[:1].isdigit() or cell in ("-", "") for cell in cells)
