"""`vad encoders`: what can be extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import DeviceOption, JsonOption, complete_encoder

if TYPE_CHECKING:
    from pipelines.encoders._base import Encoder

app = typer.Typer(help="Encoders: list and show.", no_args_is_help=True)


@app.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List every encoder. Reads the files without importing them."""
    from pipelines import catalog

    console = Console.of(ctx, json=as_json)
    rows = []
    for name in catalog.names("encoders"):
        entry = catalog.entries("encoders")[name.partition(":")[0]]
        weights = entry.facts.get("WEIGHTS")
        card = weights.get(name.partition(":")[2], {}) if isinstance(weights, dict) else {}
        rows.append({"name": name, "summary": entry.summary, "weights": card.get("source"), "plugin": entry.plugin})
    console.json({"encoders": rows})
    console.table("", ("encoder", "what it is"), [(r["name"], r["summary"]) for r in rows])


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE.py", help="An encoder.", autocompletion=complete_encoder)],
    complexity: Annotated[
        bool, typer.Option("--complexity", help="Count parameters and operations, and measure the rate here.")
    ] = False,
    clip_len: Annotated[int, typer.Option("--clip-len", metavar="N", min=1, help="Frames in a clip.")] = 16,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Show an encoder: its options, how frames become its input, its weights card, and what could not be checked."""
    from pipelines import catalog

    console = Console.of(ctx, json=as_json)
    module = catalog.load("encoders", name)
    encoder = module.build(name.partition(":")[2] if not name.endswith(".py") else "", module.Config())
    facts = _facts(encoder, clip_len)
    options = _options(module.Config)
    cost = _cost(encoder, clip_len, device) if complexity else None
    about = (module.__doc__ or "").strip()
    console.json({**facts, "about": about, "options": options, "complexity": cost})
    console.text(f"{encoder.name}: {about}\n")
    console.table("", ("what", "value"), _rows(facts))
    console.text()
    console.table(
        "options", ("key", "default", "what it does"), [(o["key"], str(o["default"]), o["help"]) for o in options]
    )
    if cost:
        console.text()
        console.table("cost of one clip and crop", ("what", "value"), [(k, v) for k, v in cost.items()])


def _facts(encoder: Encoder, clip_len: int) -> dict[str, Any]:
    from dataclasses import asdict

    from pipelines.encoders import _weights

    card = encoder.weights
    path = _weights.locate(card) if card else None
    absent = f"no: {_weights.hint(card, encoder.name)}" if card and path is None else None
    return {
        "name": encoder.name,
        "revision": encoder.revision,
        "kind": encoder.kind,
        "dim": encoder.dim,
        "frames_of_a_clip": {"clip_len": clip_len, "positions": list(encoder.positions(clip_len))},
        "preprocess": asdict(encoder.preprocess),
        "weights": asdict(card) if card else None,
        "weights_path": str(path) if path else None,
        "weights_hint": absent,
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(key, str(facts[key])) for key in ("revision", "kind", "dim")]
    clip = facts["frames_of_a_clip"]
    rows.append(("frames of a clip", f"{', '.join(map(str, clip['positions']))} of {clip['clip_len']}"))
    rows += [(key, str(value)) for key, value in facts["preprocess"].items()]
    card = facts["weights"]
    if card is None:
        return [*rows, ("weights", "none needed")]
    rows += [(f"weights: {key}", str(card[key])) for key in ("source", "licence", "fetch", "sha256", "bytes")]
    rows += [("not verified", line) for line in card["unverified"]]
    return [*rows, ("weights: here", facts["weights_path"] or facts["weights_hint"])]


def _options(config: Any) -> list[dict[str, Any]]:
    return [
        {"key": key, "default": field.default, "help": field.description or ""}
        for key, field in config.model_fields.items()
    ]


def _cost(encoder: Encoder, clip_len: int, device: str) -> dict[str, Any]:
    from dataclasses import asdict

    from pipelines.encoders._complexity import measure

    return asdict(measure(encoder, clip_len=clip_len, device=device))
