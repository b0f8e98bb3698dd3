"""`vad data`: list, show and check datasets, and make an entry for somebody's own videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import CacheDirOption, DatasetArgument, JsonOption, ManifestOption, complete_dataset

if TYPE_CHECKING:
    from pipelines.data.check import Report
    from pipelines.data.manifest import Dataset, Manifest

app = typer.Typer(no_args_is_help=True)
SHOWN = 8  # findings of one kind in the table; --json has all


@app.command("ls")
def ls(ctx: typer.Context, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """List the datasets of the manifest, and which of them are on this disk."""
    from pipelines.data.discovery import summary

    console = Console.of(ctx, json=json)
    path, rows = summary(manifest)
    columns = ("name", "kind", "here", "train", "test", "classes", "encoder", "crops", "title")
    console.table(f"Datasets of {path}", columns, [[row[key] for key in columns] for row in rows])
    console.json({"manifest": path, "datasets": rows})


@app.command("show")
def show(
    ctx: typer.Context, dataset: DatasetArgument, manifest: ManifestOption = None, json: JsonOption = False
) -> None:
    """Show a dataset: folders, splits with counts per class, truths, licence, and which files belong where."""
    from pipelines.data.manifest import load

    console = Console.of(ctx, json=json)
    chosen = load(manifest).dataset(dataset)
    facts, parts = _facts(chosen), _parts(chosen)
    console.text(f"{chosen.name}: {chosen.title}")
    for key, value in facts.items():
        if key not in ("name", "title", "notes", "files") and value:
            console.text(f"  {key:<12} {', '.join(value) if isinstance(value, list) else value}")
    for line in facts["files"]:
        console.text(f"  file         {line}")
    for note in facts["notes"]:
        console.text(f"  note         {note}")
    columns = ("split", "part", "videos", "abnormal", "expected", "groups", "classes")
    console.table("", columns, [[row[key] for key in columns] for row in parts])
    for row in parts:
        if row["problem"]:
            console.warn(str(row["problem"]))
    console.json({**facts, "parts": parts})


@app.command("check")
def check(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATASET]", help="One dataset; all that are here unless given.", autocompletion=complete_dataset
        ),
    ] = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    json: JsonOption = False,
) -> None:
    """Check lists, footage, labels and truth against the disk; exit 5 names what is wrong."""
    from pipelines.data.manifest import load
    from pipelines.errors import VerificationError

    console = Console.of(ctx, json=json)
    loaded = load(manifest)
    reports, absent = _reports(loaded, dataset, cache_dir, console)
    for report in reports:
        _print(console, report)
    if absent:
        console.text("not on this disk: " + ", ".join(absent))
    console.json({"manifest": loaded.path, "datasets": [_report(report) for report in reports], "absent": absent})
    failed = [report.dataset for report in reports if report.errors]
    if failed:
        count = sum(len(report.errors) for report in reports)
        raise VerificationError(f"{count} errors in {', '.join(failed)}", hint=f"vad data show {failed[0]}")


@app.command("init")
def init(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Your videos, or folders of images, at any depth.")],
    name: Annotated[str | None, typer.Option("--name", help="The dataset's name; the folder's unless given.")] = None,
    normal: Annotated[
        str | None, typer.Option("--normal", metavar="CLASS", help="Which class folder is normal.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Write the entry here; ./data_manifest.yaml unless given."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write an entry and a csv to fill in for your own videos; run again, it adds only new videos."""
    from dataclasses import asdict

    from pipelines.data.init import init as run

    console = Console.of(ctx, json=json)
    done = run(folder, manifest=manifest, name=name, normal=normal)
    console.text(f"{done.name}: {done.added} videos added, {done.kept} rows kept; classes {', '.join(done.classes)}")
    console.text(f"  entry  {done.manifest}{'' if done.entry_written else ' (unchanged)'}")
    console.text(f"  list   {done.videos_csv}")
    console.text(f"  events {done.events_csv}")
    for note in done.notes:
        console.warn(note)
    for path in done.gone:
        console.warn(f"{path}: listed, but the file is gone")
    console.text("Next:")
    for line in done.next:
        console.text(f"  {line}")
    console.json(asdict(done))


def _facts(dataset: Dataset) -> dict[str, Any]:
    from pipelines.errors import MissingArtifactError

    def folder(which: str) -> str:
        try:
            return str(getattr(dataset, which))
        except MissingArtifactError as error:
            return f"{getattr(dataset.entry, which) or dataset.entry.root} ({error.message.rsplit(', and ', 1)[-1]})"

    entry = dataset.entry
    files = [
        f"{split}/{part}: {' + '.join(source.files) or 'in the manifest'}"
        for split, spec in entry.splits.items() for part in ("train", "val", "test") for source in spec.sources(part)
    ]  # fmt: skip
    files += [
        f"truth {name}: {reader.file or 'the label of the video'} ({reader.reader}, {reader.rule})"
        for name, truth in entry.truths.items() for reader in (*truth.events, *truth.labels)
    ]  # fmt: skip
    titles = [f"{name} ({entry.class_titles[name]})" if name in entry.class_titles else name for name in entry.classes]
    return {
        "name": dataset.name, "title": dataset.title, "kind": dataset.kind, "manifest": str(dataset.manifest_path),
        "root": folder("root"), "annotations": folder("annotations"), "footage": list(dataset.templates()),
        "classes": titles, "splits": list(dataset.splits), "truths": list(dataset.truths), "encoder": dataset.encoder,
        "crops": dataset.crops, "clip_len": dataset.clip_len, "stride": dataset.stride,
        "primary": list(dataset.primary_metrics), "licence": dataset.licence, "link": dataset.link,
        "citation": dataset.citation, "files": files, "notes": list(entry.notes),
    }  # fmt: skip


def _parts(dataset: Dataset) -> list[dict[str, Any]]:
    """One row per part of every split, with counts as far as its lists can be read."""
    from collections import Counter

    from pipelines.errors import VadError

    rows: list[dict[str, Any]] = []
    for split in dataset.splits:
        for part in ("train", "val", "test"):
            expected = dataset.expected(split, part)
            problem = ""
            try:
                videos = dataset.part_videos(split, part)
            except VadError as error:
                videos, problem = [], error.message
            if not videos and not problem:
                continue
            counted = Counter(name for video in videos for name in video.classes)
            rows.append({
                "split": split, "part": part, "videos": len(videos),
                "abnormal": sum(dataset.is_abnormal(video) for video in videos),
                "expected": expected.videos if expected else None,
                "groups": len({video.group for video in videos if video.group}) or None,
                "classes": " ".join(f"{name}:{counted[name]}" for name in dataset.classes if counted[name]),
                "problem": problem,
            })  # fmt: skip
    return rows


def _reports(
    manifest: Manifest, name: str | None, cache_dir: str | None, console: Console
) -> tuple[list[Report], list[str]]:
    """Reports of the datasets that are here, and the names of those that are not (one named is an error then)."""
    from pipelines.data.check import check as run
    from pipelines.errors import MissingArtifactError

    reports: list[Report] = []
    absent: list[str] = []
    for each in [name] if name else manifest.names():
        dataset = manifest.dataset(each)
        stored = _stored(manifest, each, cache_dir)
        try:
            reports.append(run(dataset, **stored, probe=_measured, progress=console.progress))
        except MissingArtifactError:
            if name:
                raise
            absent.append(each)
    return reports, absent


def _measured(path: Path) -> tuple[int, float | None]:
    from pipelines.video.probe import probe

    found = probe(path)
    return found.expected_frames, found.fps


def _stored(manifest: Manifest, name: str, cache_dir: str | None) -> dict[str, Any]:
    """Decoded lengths, the containers' own counts and rates, of the videos whose features are stored."""
    from pipelines.artifacts import resolve_roots
    from pipelines.store.features import find_stores

    lengths: dict[str, int] = {}
    promised: dict[str, int] = {}
    rates: dict[str, float] = {}
    layers = resolve_roots(cache_dir=cache_dir, manifest_cache_dir=manifest.cache_dir).features
    for store in find_stores(layers, name):
        for video_id in sorted(store.videos() - lengths.keys()):
            facts = store.facts(video_id)
            lengths[video_id] = facts.n_frames
            if facts.expected_frames:
                promised[video_id] = facts.expected_frames
            if facts.fps:
                rates[video_id] = facts.fps
    return {"lengths": lengths, "expected_frames": promised, "rates": rates}


def _print(console: Console, report: Report) -> None:
    counts = "; ".join(
        f"{split}/{part} " + ", ".join(f"{value:,} {key}" for key, value in numbers.items())
        for split, parts in report.counts.items() for part, numbers in parts.items()
    )  # fmt: skip
    console.text(f"{report.dataset}: {len(report.errors)} errors, {len(report.warnings)} warnings. {counts}")
    shown: dict[tuple[str, str], int] = {}
    for finding in sorted(report.findings, key=lambda finding: ("error", "warning", "note").index(finding.level)):
        key = (finding.level, finding.kind)
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= SHOWN:
            console.text(f"  {finding.level:<8}{finding.message}")
    for (level, kind), count in shown.items():
        if count > SHOWN:
            console.text(f"  {level:<8}... {count - SHOWN} more of this kind ({kind}); --json has all")


def _report(report: Report) -> dict[str, Any]:
    return {
        "dataset": report.dataset,
        "counts": report.counts,
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "findings": [
            {"level": f.level, "kind": f.kind, "video": f.video, "message": f.message} for f in report.findings
        ],
    }
