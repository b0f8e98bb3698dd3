"""`vad status`: what is done, failed and missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import CacheDirOption, JsonOption, ManifestOption, complete_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.data.manifest import Manifest
    from pipelines.store.listing import DatasetStatus


def status(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(metavar="[DATASET]", help="All with features unless given.", autocompletion=complete_dataset),
    ] = None,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count done, failed and missing videos of every features artefact, from folder listings alone."""
    from pipelines.artifacts import resolve_roots
    from pipelines.data.manifest import load

    console = Console.of(ctx, json=as_json)
    listed = load(manifest)
    roots = resolve_roots(cache_dir=cache_dir, manifest_cache_dir=listed.cache_dir)
    names = [dataset] if dataset else _extracted(roots.features)
    counts = {name: _counts(listed, name, roots.features) for name in names}
    console.json({"cache": list(roots.features), "datasets": {n: [_plain(s) for s in c] for n, c in counts.items()}})
    rows = [
        (name, s.row.encoder, s.row.artifact.id8, s.done, s.failed, s.missing, s.stray or None)
        for name, found in counts.items()
        for s in found
    ]
    if rows:
        console.table("", ("dataset", "encoder", "id", "done", "failed", "missing", "not listed"), rows)
    else:
        console.text(f"no features of {dataset or 'any dataset'} in {roots.cache}")
        console.note(f"next: vad extract {dataset or 'DATASET'}")


def _counts(listed: Manifest, name: str, layers: tuple[Path, ...]) -> list[DatasetStatus]:
    from pipelines.errors import VadError
    from pipelines.store import listing

    if name in listed.names():
        return listing.status(layers, name, [video.id for video in listed.dataset(name).all_videos()])
    found = listing.status(layers, name, [])
    if not found:
        listed.dataset(name)  # raises, with the nearest name
        raise VadError(f"no dataset {name!r}")
    return found


def _extracted(layers: tuple[Path, ...]) -> list[str]:
    from pipelines.artifacts import video_id_of

    folders = [root / kind for root in layers for kind in ("features", "frames")]
    found = {
        video_id_of(path.name) for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()
    }
    return sorted(found)


def _plain(status: DatasetStatus) -> dict[str, Any]:
    return {
        "encoder": status.row.encoder,
        "kind": status.row.artifact.kind,
        "id": status.row.artifact.id,
        "folder": status.row.folder,
        "done": status.done,
        "failed": status.failed,
        "missing": status.missing,
        "not_listed": status.stray,
        "missing_ids": list(status.missing_ids),
    }
