"""`vad extract --boxes`: boxes of every frame; with `--encoder` features, with `--text` captions of what is in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadcli.console import Console

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset
    from pipelines.extraction.boxes import BoxesResult, Redo
    from pipelines.extraction.regions import RegionsPlan


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `vad extract` that boxes and region features read."""

    dataset: Dataset
    boxes: str
    weights: Path | None
    encoder: str | None
    like: str | None
    clip_len: int | None
    precision: str
    settings: tuple[str, ...]
    text: str | None = None


def extract(
    console: Console, asked: Asked, layers: tuple[Path, ...], *, redo: Redo, device: str, dry_run: bool
) -> None:
    """Make the boxes, or (with an encoder) the features of boxes that exist; say only what would be made under --dry-run."""
    if asked.text is not None:
        _make_captions(console, asked, layers, device=device, dry_run=dry_run)
    elif asked.encoder is None:
        _make_boxes(console, asked, layers, redo=redo, dry_run=dry_run)
    else:
        _make_features(console, asked, layers, redo=redo, device=device, dry_run=dry_run)


def _make_boxes(console: Console, asked: Asked, layers: tuple[Path, ...], *, redo: Redo, dry_run: bool) -> None:
    from pipelines.extraction import boxes

    planned = boxes.plan(
        asked.dataset,
        asked.boxes,
        layers=layers,
        weights=asked.weights,
        settings=asked.settings,
        like=asked.like,
        redo=redo,
    )
    _show(console.text if dry_run else console.note, planned.source.name, planned.id, planned)
    if dry_run:
        console.json({"dry_run": True, "id": planned.id, "folder": planned.folder, "todo": list(planned.todo)})
        return
    result = boxes.run(planned, redo=redo, progress=console.progress)
    _render(console, [(planned.source.name, result)], what="boxes")
    name = asked.dataset.name
    console.text(f"Next: vad extract {name} --boxes {planned.source.name} --encoder effnet,velocity")
    result.raise_for_failures(name, asked.boxes)


def _make_features(
    console: Console, asked: Asked, layers: tuple[Path, ...], *, redo: Redo, device: str, dry_run: bool
) -> None:
    from pipelines.extract import pick_device
    from pipelines.extraction import regions

    planned = regions.plan(
        asked.dataset,
        [asked.encoder or ""],
        layers=layers,
        boxes=asked.boxes,
        settings=asked.settings,
        window=asked.clip_len or regions.WINDOW,
        precision="bf16" if asked.precision == "bf16" else "float32",
        redo=redo,
    )
    for stream in planned.streams:
        _show(console.text if dry_run else console.note, str(stream.recipe["encoder"]), stream.id, stream)
    _say_cost(console, planned)
    if dry_run:
        listed = [{"id": s.id, "folder": s.folder, "todo": list(s.todo)} for s in planned.streams]
        console.json({"dry_run": True, "artifacts": listed})
        return
    results = regions.run(planned, device=pick_device(device), redo=redo, progress=console.progress)
    names = [str(stream.recipe["encoder"]) for stream in planned.streams]
    _render(console, list(zip(names, results, strict=True)), what="regions")
    for result in results:
        result.raise_for_failures(asked.dataset.name, asked.boxes)


def _make_captions(console: Console, asked: Asked, layers: tuple[Path, ...], *, device: str, dry_run: bool) -> None:
    from pipelines.extract import pick_device
    from pipelines.extraction import region_captions

    planned = region_captions.plan(
        asked.dataset,
        asked.text or "",
        layers=layers,
        boxes=asked.boxes,
        settings=asked.settings,
        device=pick_device(device),
    )
    say = console.text if dry_run else console.note
    name = str(planned.recipe["encoder"])
    say(f"captions {name} ({planned.id[:8]}): {len(planned.done)} videos done, {len(planned.todo)} to do")
    say(f"  {planned.folder}")
    if dry_run:
        console.json({"dry_run": True, "id": planned.id, "folder": planned.folder, "todo": list(planned.todo)})
        return
    result = region_captions.run(planned, progress=console.progress)
    console.json(asdict(result))
    console.text(f"{name} ({result.id[:8]}): {result.regions} regions of {result.made} videos")
    for said, count in result.common:
        console.text(f"  {count:6d}  {said}")
    console.text(f"{result.folder}\nNext: vad train {asked.dataset.name} --method local-patterns")


def _show(say: Any, name: str, id: str, planned: Any) -> None:
    say(
        f"{name} ({id[:8]}): {len(planned.done)} videos done, {len(planned.failed)} failed before, "
        f"{len(planned.todo)} to do\n  {planned.folder}"
    )


def _say_cost(console: Console, planned: RegionsPlan) -> None:
    """How many crops an encoder will see, from the stored boxes."""
    todo = sorted({video for stream in planned.streams for video in stream.todo})
    if not todo:
        return
    boxes = sum(next(s for s in planned.boxes if v in s).count(v) for v in todo)
    console.note(f"at most {boxes} regions in {len(todo)} videos for each encoder, {planned.window} frames each")


def _render(console: Console, found: list[tuple[str, BoxesResult]], *, what: str) -> None:
    console.json({"artifacts": [{"name": name, **asdict(result)} for name, result in found]})
    rows = [
        (name, r.id[:8], r.videos - len(r.failed), r.made, len(r.failed), r.boxes, f"{r.empty_frames} of {r.frames}")
        for name, r in found
    ]
    console.table("", ("name", "id", "done", "new", "failed", what, "frames without"), rows)
    for _, result in found:
        console.text(str(result.folder))
