"""`vad floors`: what trivial scores reach on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vadcli.commands.eval import Compat, DropFirst, DropLast, Gt, Metric, Minmax, Part, Smooth, Tail, words
from vadcli.console import Console
from vadcli.options import CacheDirOption, DatasetArgument, JsonOption, ManifestOption, RunsDirOption, SplitOption

DEFAULT = ("auc", "ap", "ano-auc", "macro-auc", "macro-auc-pad", "video-auc")
WORDS = {
    "constant": "1 on every frame",
    "random": "noise, mean of 20 seeds",
    "centre": "a hill mid-video",
    "length": "shorter is more abnormal",
    "video-oracle": "the true video label on every frame",
    "oracle-centre": "the true video label times the hill",
    "motion": "median frame difference, no training",
}


def floors(
    ctx: typer.Context,
    dataset: DatasetArgument,
    split: SplitOption = None,
    part: Part = "test",
    metric: Metric = None,
    gt: Gt = None,
    smooth: Smooth = "none",
    minmax: Minmax = False,
    drop_first: DropFirst = 0,
    drop_last: DropLast = 0,
    compat: Compat = None,
    tail: Tail = "hold",
    lengths: Annotated[
        Path | None, typer.Option("--lengths", metavar="FILE", help="csv of video, frames, where no list has them.")
    ] = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """What knows nothing still scores, under the same post-processing as a result would get.

    A result has to be read beside these numbers: they say how much of it the labels give away.
    """
    from pipelines.artifacts import resolve_roots
    from pipelines.data.manifest import load
    from pipelines.report.table import points
    from pipelines.scoring.floor_table import RANDOM_SD, floor_table
    from pipelines.scoring.protocol import Protocol

    console = Console.of(ctx, json=as_json)
    manifests = load(manifest)
    chosen = manifests.dataset(dataset)
    protocol = Protocol(
        gt=gt,
        smooth=smooth,
        normalise="minmax" if minmax else "none",
        drop_first=drop_first,
        drop_last=drop_last,
        compat=compat,
        tail=tail,
    )
    from pipelines.store.score_readers import read_lengths

    found = floor_table(
        chosen,
        split or chosen.default_split,
        part,
        protocol=protocol,
        metrics=words(metric) or DEFAULT,
        roots=resolve_roots(cache_dir=cache_dir, runs_dir=runs_dir, manifest_cache_dir=manifests.cache_dir),
        lengths=read_lengths(lengths) if lengths else None,
    )
    console.json(found)
    values = found["floors"]
    metrics = list(next(iter(values.values()), {}))
    rows = []
    for name, by_metric in values.items():
        if name == RANDOM_SD:
            continue
        deviation = values.get(RANDOM_SD, {}) if name == "random" else {}
        cells = [
            points(by_metric.get(m)) + (f" ± {points(deviation[m])}" if deviation.get(m) is not None else "")
            for m in metrics
        ]
        rows.append((name, *cells, WORDS.get(name, "")))
    console.text(
        f"{found['dataset']} / {found['split']} / {found['part']}, truth {found['truth']}: {found['videos']} videos "
        f"({found['abnormal']} abnormal), {found['frames']:,} frames, {found['positives']:,} positive"
    )
    if found["known_totals"]:
        console.text(f"totals: {found['known_totals']['message']}")
    console.text(f"smooth {found['recipe']['smooth']}, normalise {found['recipe']['normalise']}, points")
    console.table("", ("floor", *metrics, "what it knows"), rows)
