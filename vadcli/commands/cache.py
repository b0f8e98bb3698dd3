"""`vad cache`: artefacts of the cache: list, show, verify, collect garbage, remove, import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import (
    CacheDirOption,
    DatasetOption,
    DryRunOption,
    JsonOption,
    ManifestOption,
    RunsDirOption,
    YesOption,
)

if TYPE_CHECKING:
    from pipelines.artifacts import Roots
    from pipelines.data.manifest import Manifest
    from pipelines.store.importers import ImportPlan
    from pipelines.store.listing import Row
    from pipelines.store.maintenance import Problem

app = typer.Typer(help="Artefacts of the cache: list, show, verify, collect garbage, remove, import.")

Reference = Annotated[str, typer.Argument(metavar="ID|FOLDER|ENCODER", help="Which artefact (vad cache ls).")]


@app.command("ls")
def ls(
    ctx: typer.Context,
    dataset: DatasetOption = None,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every artefact over the cache layers."""
    from pipelines.store import listing

    console = Console.of(ctx, json=as_json)
    roots = _roots(cache_dir, manifest)
    found = listing.rows(roots.features, dataset=dataset)
    console.json({"cache": list(roots.features), "artifacts": [_brief(row) for row in found]})
    rows = [
        (r.dataset, r.encoder, "/".join(_crops(r)), r.artifact.id8, r.n_videos, r.n_failed, r.layer, r.artifact.created)
        for r in found
    ]
    if rows:
        console.table("", ("dataset", "encoder", "crops", "id", "videos", "failed", "layer", "created"), rows)
    else:
        console.text(f"nothing in {roots.cache}")
        console.note("next: vad extract DATASET")


@app.command("show")
def show(
    ctx: typer.Context,
    reference: Reference,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one artefact: recipe, inputs, versions, counts, size."""
    from pipelines.store import listing

    console = Console.of(ctx, json=as_json)
    roots = _roots(cache_dir, manifest)
    described = listing.describe(listing.find_row(roots.features, reference))
    console.json(described)
    console.table("", ("", "value"), _flat(described))


@app.command("verify")
def verify(
    ctx: typer.Context,
    reference: Annotated[
        str | None, typer.Argument(metavar="[ID|FOLDER|ENCODER]", help="One artefact; all unless given.")
    ] = None,
    dataset: DatasetOption = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Move broken videos aside; the same extract then does them again.")
    ] = False,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every stored video: opens, length, NaN, constant and zero values, checksum. Exit 5 names the broken ones."""
    from pipelines.errors import VerificationError
    from pipelines.store import listing, maintenance

    console = Console.of(ctx, json=as_json)
    layers = _roots(cache_dir, manifest).features
    rows = [listing.find_row(layers, reference)] if reference else listing.rows(layers, dataset=dataset)
    chosen = [row for row in rows if row.artifact.kind in listing.GROUPS]
    console.progress.start(sum(row.n_videos for row in chosen), "verifying")
    problems = {
        row.folder: maintenance.verify(maintenance.open_store(row.folder), each=lambda _: console.progress.advance())
        for row in chosen
    }
    console.progress.finish()
    broken = {folder: sorted({p.video_id for p in found if p.serious}) for folder, found in problems.items()}
    n_broken = sum(map(len, broken.values()))
    console.json(_verified(chosen, problems, broken))
    for folder, found in problems.items():
        if found:
            lines = [(p.video_id, "broken" if p.serious else "remark", p.what) for p in found]
            console.table(str(folder), ("video", "", "what"), lines)
    if fix:
        for folder, ids in broken.items():
            if ids:
                aside = maintenance.set_broken_aside(maintenance.open_store(folder), ids)
                console.note(f"moved {len(ids)} videos to {aside}; the same `vad extract` does them again")
    n_videos = sum(row.n_videos for row in chosen)
    if n_broken:
        named = ", ".join(id for ids in broken.values() for id in ids[:10])
        hint = "the same `vad extract` does them again" if fix else "vad cache verify --fix moves them aside"
        raise VerificationError(f"{n_broken} of {n_videos} videos are broken: {named}", hint=hint)
    console.text(f"{n_videos} videos in {len(chosen)} artefacts, nothing broken")


@app.command("gc")
def gc(
    ctx: typer.Context,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    manifest: ManifestOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what neither a run nor a manifest entry uses; delete it with --yes.

    Only the first cache layer is looked at, and only the runs below --runs-dir: runs of other people are not known here.
    """
    from pipelines.store import maintenance

    console = Console.of(ctx, json=as_json)
    roots, listed = _places(cache_dir, manifest, runs_dir)
    found = maintenance.garbage(roots.cache, named=_manifest_features(listed), runs=roots.runs)
    total = sum(item.n_bytes for item in found)
    rows = [{"path": item.path, "bytes": item.n_bytes, "why": item.why} for item in found]
    console.json({"cache": roots.cache, "runs": roots.runs, "bytes": total, "deleted": yes, "unused": rows})
    if found:
        console.table("", ("path", "MB", "why"), [(i.path, f"{i.n_bytes / 1e6:.1f}", i.why) for i in found])
    for item in found if yes else ():
        maintenance.remove(item.path)
    verb = "deleted" if yes else "would be deleted with --yes"
    console.text(f"{len(found)} items, {total / 1e6:.1f} MB {verb}; runs looked at: {roots.runs}")


@app.command("rm")
def rm(
    ctx: typer.Context,
    reference: Reference,
    videos: Annotated[
        list[str] | None, typer.Option("--video", metavar="ID", help="Only this video; repeat it.")
    ] = None,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete one artefact, or single videos of it, with --yes; without it, say what would go."""
    from pipelines.errors import MissingArtifactError, UsageError
    from pipelines.store import listing, maintenance

    console = Console.of(ctx, json=as_json)
    row = listing.find_row(_roots(cache_dir, manifest).features, reference)
    if row.layer > 0:
        raise UsageError(f"{row.folder} is in a layer that is only read", hint="give its root as the only --cache-dir")
    if videos:
        store = maintenance.open_store(row.folder)
        absent = [id for id in videos if id not in store]
        if absent:
            raise MissingArtifactError(f"{row.folder} has no video {absent[0]!r}")
        for id in videos if yes else ():
            store.discard(id)
        size = sum(listing.size_bytes(store.path(id)) for id in videos if not yes)
    else:
        size = listing.size_bytes(row.folder)
        if yes:
            maintenance.remove(row.folder)
    console.json({"folder": row.folder, "videos": videos, "bytes": size, "deleted": yes})
    what = (
        f"{len(videos)} videos of {row.folder}"
        if videos
        else f"{row.folder} ({row.n_videos} videos, {size / 1e6:.1f} MB)"
    )
    console.text(f"{'deleted' if yes else 'would delete with --yes:'} {what}")


@app.command("import")
def import_(
    ctx: typer.Context,
    dialect: Annotated[str, typer.Argument(metavar="vadclip|ur-dmu", help="Whose files they are.")],
    source: Annotated[Path, typer.Option("--source", metavar="FOLDER", help="Where the .npy files lie.")],
    dataset: DatasetOption = None,
    lists: Annotated[
        list[Path] | None, typer.Option("--list", metavar="CSV", help="Only the videos of this list; repeat it.")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option("--crop-order", metavar="roc-ng|ur-dmu|torchvision|unknown", help="Which crop stands where."),
    ] = None,
    crops: Annotated[
        str | None, typer.Option("--crops", metavar="NAME,NAME", help="Keep these crops only (center_m).")
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

    if dialect not in importers.FORMATS:
        raise UsageError(f"unknown layout {dialect!r}: {', '.join(importers.FORMATS)}")
    if dataset is None:
        raise UsageError("whose features are they?", hint="--dataset ucf-crime")
    console = Console.of(ctx, json=as_json)
    roots, listed = _places(cache_dir, manifest)
    planned = importers.plan_import(
        listed.dataset(dataset),
        "vadclip" if dialect == "vadclip" else "ur-dmu",
        source,
        root=roots.cache,
        lists=lists or (),
        order=order,
        crops=crops.split(",") if crops else None,
        progress=console.progress,
    )
    if not dry_run:
        importers.run_import(planned, progress=console.progress)
    _render_import(console, planned, stored=not dry_run)
    if planned.bad and not dry_run:
        lines = "".join(f"\n  {id}: {reason}" for id, reason in list(planned.bad.items())[:20])
        raise PartialFailure(f"{len(planned.bad)} of {len(planned.found)} videos could not be imported:{lines}")


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
    console.text(f"crops {', '.join(planned.recipe['crops'])}; mean norm {planned.recorded['mean_norm']}")
    console.text(str(planned.folder))


def _few(names: Any, most: int = 3) -> str:
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _roots(cache_dir: str | None, manifest: Path | None) -> Roots:
    """The cache's layers; the manifest is only loaded where it has a say, so that listing stays quick."""
    from pipelines.artifacts import resolve_roots
    from pipelines.data.discovery import chosen_path

    if cache_dir or os.environ.get("VAD_CACHE"):
        return resolve_roots(cache_dir=cache_dir)
    if "cache_dir" not in chosen_path(manifest).read_text(encoding="utf-8", errors="replace"):
        return resolve_roots()
    return _places(None, manifest)[0]


def _places(cache_dir: str | None, manifest: Path | None, runs_dir: Path | None = None) -> tuple[Roots, Manifest]:
    from pipelines.artifacts import resolve_roots
    from pipelines.data.manifest import load

    listed = load(manifest)
    roots = resolve_roots(cache_dir=cache_dir, runs_dir=runs_dir, manifest_cache_dir=listed.cache_dir)
    return roots, listed


def _manifest_features(listed: Manifest) -> set[tuple[str, str]]:
    """(dataset, id) of the features that manifest entries name, with any crops."""
    from pipelines.extraction.plan import Sampling, choose_encoders, features_id, make_recipe
    from pipelines.video.crops import CROPS

    found: set[tuple[str, str]] = set()
    for name in listed.names():
        entry = listed.dataset(name)
        sampling = Sampling(entry.clip_len, entry.stride)
        for choice in choose_encoders([entry.encoder]):
            found |= {
                (name, features_id(make_recipe(choice, sampling=sampling, crops=names))) for names in CROPS.values()
            }
    return found


def _crops(row: Row) -> list[str]:
    from pipelines.store.listing import crops_word

    names = row.artifact.recipe.get("crops")
    return [crops_word(names)] if names else []


def _brief(row: Row) -> dict[str, Any]:
    return {
        "id": row.artifact.id,
        "kind": row.artifact.kind,
        "dataset": row.dataset,
        "encoder": row.encoder,
        "folder": row.folder,
        "layer": row.layer,
        "videos": row.n_videos,
        "failed": row.n_failed,
        "created": row.artifact.created,
    }


def _verified(rows: list[Row], problems: dict[Path, list[Problem]], broken: dict[Path, list[str]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "artifacts": [
            {**_brief(row), "broken": broken[row.folder], "problems": [asdict(p) for p in problems[row.folder]]}
            for row in rows
        ]
    }


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            found += _flat(inner, f"{prefix}{key}.")
        elif inner not in ({}, None, ""):
            found.append((prefix + key, ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else inner))
    return found
