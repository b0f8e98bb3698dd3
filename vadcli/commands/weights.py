"""`vad weights`: the pretrained weights that encoders need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import JsonOption, complete_encoder

if TYPE_CHECKING:
    from pipelines.encoders._weights import Weights

app = typer.Typer(help="Pretrained weights: list, fetch, verify.", no_args_is_help=True)

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ENCODER]...", help="Encoders; all unless given.", autocompletion=complete_encoder),
]


@app.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List each encoder's weights: size, licence, and where they are."""
    from pipelines.encoders import _weights

    console = Console.of(ctx, json=as_json)
    rows = []
    for name, card in _cards().items():
        path = _weights.locate(card)
        rows.append({"encoder": name, **_card(card), "path": str(path) if path else None})
    console.json({"weights": rows})
    console.table(
        "",
        ("encoder", "MB", "licence", "where"),
        [(r["encoder"], _megabytes(r["bytes"]), r["licence"], r["path"] or "not here") for r in rows],
    )


@app.command("fetch")
def fetch(ctx: typer.Context, names: NamesArgument = None, as_json: JsonOption = False) -> None:
    """Download weights at their pinned revision into the hub's cache, and check them."""
    from pipelines.encoders import _weights

    console = Console.of(ctx, json=as_json)
    rows = []
    for name, card in _chosen(names, fetchable=True).items():
        path = _weights.locate(card)
        state = "up to date" if path else "fetched"
        if path is None:
            console.note(f"{name}: {_megabytes(card.bytes)} MB, {card.licence}, {card.fetch}")
            path = _weights.fetch(card, name)
        _weights.checked(path, card, name)
        if state == "fetched":
            _weights.companions(card, path, name)
        rows.append({"encoder": name, "state": state, "path": str(path)})
    console.json({"weights": rows})
    console.table("", ("encoder", "state", "where"), [tuple(row.values()) for row in rows])


@app.command("verify")
def verify(ctx: typer.Context, names: NamesArgument = None, as_json: JsonOption = False) -> None:
    """Check the sha256 of weights that are here. Exit 4 for one that was named and is missing, 5 for a wrong hash."""
    from pipelines.encoders import _weights
    from pipelines.errors import MissingArtifactError, VerificationError

    console = Console.of(ctx, json=as_json)
    rows, wrong, missing = [], [], []
    for name, card in _chosen(names).items():
        path = _weights.locate(card)
        state = _state(path, card)
        rows.append({"encoder": name, "state": state, "path": str(path) if path else None})
        wrong += [name] if state == "wrong hash" else []
        missing += [name] if state == "not here" and names else []
    console.json({"weights": rows})
    console.table("", ("encoder", "state", "where"), [(r["encoder"], r["state"], r["path"] or "") for r in rows])
    if wrong:
        raise VerificationError(
            f"wrong weights: {', '.join(wrong)}", hint=f"remove the file and: vad weights fetch {wrong[0]}"
        )
    if missing:
        raise MissingArtifactError(
            f"weights that are not here: {', '.join(missing)}", hint=_weights.hint(_cards()[missing[0]], missing[0])
        )


def _state(path: Path | None, card: Weights) -> str:
    from pipelines.encoders import _weights

    if path is None:
        return "not here"
    if card.sha256 is None:
        return "no hash known"
    return "ok" if _weights.sha256_of(path) == card.sha256 else "wrong hash"


def _cards() -> dict[str, Weights]:
    """Encoder name -> card, read without importing any encoder."""
    from pipelines import catalog
    from pipelines.encoders import _weights

    found: dict[str, Weights] = {}
    for entry in catalog.entries("encoders").values():
        for variant, card in _weights.cards(entry.facts).items():
            found[f"{entry.name}:{variant}" if variant else entry.name] = card
    return found


def _chosen(names: list[str] | None, *, fetchable: bool = False) -> dict[str, Weights]:
    from pipelines.errors import UsageError

    cards = _cards()
    if not names:
        if fetchable:
            raise UsageError("which weights?", hint=f"vad weights fetch {next(iter(cards))}, or several names")
        return cards
    if unknown := [name for name in names if name not in cards]:
        from pipelines.recipe import suggest

        raise UsageError(
            f"{unknown[0]!r} is no encoder with weights{suggest(unknown[0], list(cards))}", hint="vad weights ls"
        )
    return {name: cards[name] for name in names}


def _card(card: Weights) -> dict[str, Any]:
    return {
        "source": card.source,
        "licence": card.licence,
        "fetch": card.fetch,
        "sha256": card.sha256,
        "bytes": card.bytes,
    }


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.0f}" if size else "?"
