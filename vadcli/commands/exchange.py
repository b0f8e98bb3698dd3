"""`vad cache import|export|diff|pack|unpack`: features that others made, and ours for others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import CacheDirOption, DatasetOption, DryRunOption, JsonOption, ManifestOption

if TYPE_CHECKING:
    from pipelines.artifacts import Roots
    from pipelines.data.manifest import Manifest
    from pipelines.store.compare import Difference
    from pipelines.store.importers import ImportPlan

LAYOUTS = "vadclip|ur-dmu|rtfm|mgfn|xd|pel4vad|vggish|c3d|hdf5|npy"

Reference = Annotated[str, typer.Argument(metavar="ID|FOLDER|ENCODER", help="Which artefact (vad cache ls).")]
OrderOption = Annotated[
    str | None,
    typer.Option(
        "--crop-order",
        metavar="roc-ng|ur-dmu|torchvision|unknown|NAME,...",
        help="Which crop stands where; the layout's own unless given.",
    ),
]
CropsOption = Annotated[str | None, typer.Option("--crops", metavar="NAME,NAME", help="These crops only (center_m).")]
ListOption = Annotated[
    list[Path] | None,
    typer.Option("--list", metavar="FILE", help="Only the videos of this published list (csv or lines); repeat it."),
]
AxisOption = Annotated[
    int | None, typer.Option("--crop-axis", min=0, max=1, help="The crops' axis, where the shape does not say.")
]


def import_(
    ctx: typer.Context,
    layout: Annotated[str, typer.Argument(metavar=LAYOUTS, help="Whose files they are.")],
    source: Annotated[Path, typer.Option("--source", metavar="FOLDER|FILE", help="Where the files lie.")],
    dataset: DatasetOption = None,
    lists: ListOption = None,
    order: OrderOption = None,
    crops: CropsOption = None,
    axis: AxisOption = None,
    stride: Annotated[
        int | None, typer.Option("--stride", metavar="FRAMES", min=1, help="Frames that a vector stands for; 16.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="TEXT", help="Where you got them; recorded.")
    ] = None,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import published features: every file matched to a video of the dataset, checked and hashed first.

    Missing and extra files are listed. Exit 3 when videos could not be imported.
    """
    from pipelines.errors import PartialFailure, UsageError
    from pipelines.store import importers
    from pipelines.store.layouts import find_layout

    find_layout(layout)
    if dataset is None:
        raise UsageError("whose features are they?", hint="--dataset ucf-crime")
    console = Console.of(ctx, json=as_json)
    roots, listed = places(cache_dir, manifest)
    planned = importers.plan_import(
        listed.dataset(dataset),
        layout,
        source,
        root=roots.cache,
        lists=lists or (),
        order=order,
        crops=_names(crops),
        axis=axis,
        stride=stride,
        origin=origin,
        progress=console.progress,
    )
    if not dry_run and planned.good:
        importers.run_import(planned, progress=console.progress)
    _render_import(console, planned, stored=not dry_run)
    if planned.bad and not dry_run:
        lines = "".join(f"\n  {id}: {reason}" for id, reason in list(planned.bad.items())[:20])
        raise PartialFailure(f"{len(planned.bad)} of {len(planned.found)} videos could not be imported:{lines}")


def export(
    ctx: typer.Context,
    reference: Reference,
    to: Annotated[str, typer.Option("--to", metavar=LAYOUTS, help="Whose layout.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder.")],
    order: OrderOption = None,
    crops: CropsOption = None,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="float32|float16", help="float32 is what public loaders expect.")
    ] = "float32",
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write features in another project's layout, with its lists; importing them again gives the same bits."""
    from pipelines.errors import UsageError
    from pipelines.store import exporters, listing
    from pipelines.store.features import FeatureStore

    console = Console.of(ctx, json=as_json)
    roots, listed = places(cache_dir, manifest)
    row = listing.find_row(roots.features, reference)
    if row.artifact.kind != "features":
        raise UsageError(f"{row.folder} holds {row.artifact.kind}, not features")
    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype {dtype!r}: float32 or float16")
    planned = exporters.plan_export(
        FeatureStore(row.folder),
        to,
        out,
        order=order,
        crops=_names(crops),
        dtype="float16" if dtype == "float16" else "float32",
    )
    for line in planned.warnings:
        console.warn(line)
    known = listed.dataset(row.dataset) if row.dataset in listed.names() else None
    written: list[Path] = []
    if not dry_run:
        videos = known.all_videos() if known else ()
        written = exporters.run_export(
            planned, videos, normal=known.normal if known else "normal", progress=console.progress
        )
    facts = {"out": out, "videos": len(planned.videos), "bytes": planned.n_bytes, "warnings": list(planned.warnings)}
    console.json({**planned.marker, **facts, "dry_run": dry_run, "files": len(written)})
    verb = "would write" if dry_run else "wrote"
    console.text(
        f"{verb} {len(planned.videos)} videos, {planned.n_bytes / 1e6:.1f} MB, crops {', '.join(planned.crops)}"
    )
    if not known:
        console.note(f"{row.dataset} is not in the manifest: no lists were written")
    console.text(str(out))


def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="An artefact (vad cache ls).")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, or a folder of files with --layout.")],
    layout: Annotated[str | None, typer.Option("--layout", metavar=LAYOUTS, help="How to read files at B.")] = None,
    lists: ListOption = None,
    order: OrderOption = None,
    axis: AxisOption = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Videos to compare.")] = 50,
    max_shift: Annotated[int, typer.Option("--max-shift", metavar="CLIPS", min=0, help="Shifts to try.")] = 3,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two features of the same videos and say how they differ: mine against downloaded ones.

    Same, shifted, crops permuted, other preprocessing, other encoder, or unrelated; judged without each side's common
    mean, because features of one encoder have a high cosine between any two clips.
    """
    from dataclasses import asdict

    from pipelines.errors import UsageError
    from pipelines.store import importers, listing
    from pipelines.store.compare import compare, side_of
    from pipelines.store.features import FeatureStore

    console = Console.of(ctx, json=as_json)
    layers = roots_of(cache_dir, manifest).features
    mine = FeatureStore(listing.find_row(layers, a).folder)
    bad: dict[str, str] = {}
    if layout is not None:
        theirs, bad = importers.open_files(Path(b), layout, mine.videos(), lists=lists or (), order=order, axis=axis)
    elif Path(b).exists() and not (Path(b) / "artifact.json").is_file():
        raise UsageError(f"{b} is no artefact; files of which layout are there?", hint=f"--layout {LAYOUTS}")
    else:
        theirs = side_of(FeatureStore(listing.find_row(layers, b).folder))
    for id, reason in bad.items():
        console.warn(f"{id}: {reason}")
    found = compare(side_of(mine), theirs, limit=limit, max_shift=max_shift)
    console.json({"a": a, "b": b, **asdict(found), "unreadable": bad})
    _render_diff(console, found)


def pack(
    ctx: typer.Context,
    reference: Reference,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The folder's name + .vadpack.zip, here, unless given.")
    ] = None,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put one artefact into one file, with the sha256 of all that is in it."""
    from pipelines.store import listing, packing

    console = Console.of(ctx, json=as_json)
    row = listing.find_row(roots_of(cache_dir, manifest).features, reference)
    target = out or Path(f"{row.dataset}-{row.folder.name}{packing.SUFFIX}")
    if dry_run:
        size = listing.size_bytes(row.folder)
        console.json({"file": target, "bytes": size, "videos": row.n_videos, "dry_run": True})
        console.text(f"would pack {row.n_videos} videos, {size / 1e6:.1f} MB, into {target}")
        return
    done = packing.pack(row, target, progress=console.progress)
    console.json(packing.describe(done))
    console.text(
        f"{len(done.videos)} videos, {done.n_bytes / 1e6:.1f} MB\n{target}\nThere: vad cache unpack {target.name}"
    )


def unpack(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `vad cache pack` wrote.")],
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a packed artefact into the cache: every file is verified, and videos that are there already are kept."""
    from pipelines.store import packing

    console = Console.of(ctx, json=as_json)
    found = packing.read_pack(file)
    told = packing.describe(found)
    root = roots_of(cache_dir, manifest).cache
    if dry_run:
        console.json({**told, "dry_run": True})
        console.text(
            f"would unpack {told['videos']} videos of {found.dataset}, {found.n_bytes / 1e6:.1f} MB, into {root}"
        )
        return
    done = packing.unpack(found, root, progress=console.progress)
    console.json({**told, "folder": done.folder, "added": list(done.added), "kept": list(done.kept)})
    console.text(f"{len(done.added)} added, {len(done.kept)} there already\n{done.folder}")


VERBS: dict[str, Callable[..., None]] = {
    "import": import_,
    "export": export,
    "diff": diff,
    "pack": pack,
    "unpack": unpack,
}


def roots_of(cache_dir: str | None, manifest: Path | None) -> Roots:
    """The cache's layers; the manifest is only loaded where it has a say, so that listing stays quick."""
    from pipelines.artifacts import resolve_roots
    from pipelines.data.discovery import chosen_path

    if cache_dir or os.environ.get("VAD_CACHE"):
        return resolve_roots(cache_dir=cache_dir)
    if "cache_dir" not in chosen_path(manifest).read_text(encoding="utf-8", errors="replace"):
        return resolve_roots()
    return places(None, manifest)[0]


def places(cache_dir: str | None, manifest: Path | None, runs_dir: Path | None = None) -> tuple[Roots, Manifest]:
    """The roots, and the manifest that has a say in them."""
    from pipelines.artifacts import resolve_roots
    from pipelines.data.manifest import load

    listed = load(manifest)
    roots = resolve_roots(cache_dir=cache_dir, runs_dir=runs_dir, manifest_cache_dir=listed.cache_dir)
    return roots, listed


def _render_import(console: Console, planned: ImportPlan, *, stored: bool) -> None:
    console.json(
        {
            "dataset": planned.dataset,
            "id": planned.id,
            "folder": planned.folder,
            "stored": stored,
            "recipe": planned.recipe,
            "recorded": planned.recorded,
            "good": [item.video.id for item in planned.good],
            "failed": planned.bad,
            "missing": list(planned.missing),
            "extra": list(planned.extra),
        }
    )
    rows = [
        ("imported" if stored else "would be imported", len(planned.good), ""),
        ("not usable", len(planned.bad), _few([f"{id}: {why}" for id, why in planned.bad.items()])),
        ("missing", len(planned.missing), _few(planned.missing)),
        ("not in the dataset", len(planned.extra), _few(planned.extra)),
    ]
    console.table(f"{planned.recipe['encoder']} ({planned.id[:8]})", ("", "videos", "which"), rows)
    norm = planned.recorded["mean_norm"]
    told = f", mean norm {norm:.4g}" if norm is not None else ""
    console.text(f"width {planned.recorded['dim']}, crops {', '.join(planned.recipe['crops'])}{told}")
    console.text(str(planned.folder))


def _render_diff(console: Console, found: Difference) -> None:
    console.text(found.words[0].upper() + found.words[1:])
    rows = [
        (
            "videos compared",
            found.compared,
            f"{found.identical} equal bit for bit, {found.other_length} of other length",
        ),
        ("only in A / only in B", f"{found.only_a} / {found.only_b}", ""),
        ("cosine", _number(found.cosine), f"{_number(found.others_cosine)} to other clips"),
        ("cosine without the means", _number(found.centred), f"{_number(found.others_centred)} to other clips"),
        ("norm of B / of A", _number(found.norm_ratio), ""),
        ("clips' mutual similarity", _number(found.structure), f"{_number(found.structure_apart)} out of step"),
        (
            "videos' mutual similarity",
            _number(found.structure_videos),
            f"{_number(found.structure_videos_apart)} mixed up",
        ),
    ]
    console.table("", ("", "medians over videos", ""), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _names(text: str | None) -> Sequence[str] | None:
    return [part.strip() for part in text.split(",")] if text else None


def _few(names: Any, most: int = 3) -> str:
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
