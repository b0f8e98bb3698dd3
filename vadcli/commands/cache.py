"""`vad cache`: artefacts of the cache: list, show, verify, collect garbage, remove; `exchange` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.commands import exchange
from vadcli.commands.exchange import places, roots_of
from vadcli.console import Console
from vadcli.options import (
    CacheDirOption,
    DatasetOption,
    JsonOption,
    ManifestOption,
    RunsDirOption,
    YesOption,
)

if TYPE_CHECKING:
    from pipelines.data.manifest import Manifest
    from pipelines.store.listing import Row
    from pipelines.store.maintenance import Problem

app = typer.Typer(help="Artefacts of the cache: look after them, and exchange features with others.")

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
    roots = roots_of(cache_dir, manifest)
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
    roots = roots_of(cache_dir, manifest)
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
    layers = roots_of(cache_dir, manifest).features
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
    roots, listed = places(cache_dir, manifest, runs_dir)
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
    row = listing.find_row(roots_of(cache_dir, manifest).features, reference)
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


for _name, _verb in exchange.VERBS.items():
    app.command(_name)(_verb)


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
