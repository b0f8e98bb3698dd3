"""data_manifest.yaml: which file is meant, and its datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.data.dataset import Dataset, expand_or_raise
from pipelines.data.discovery import chosen_path, packaged_path, with_packaged
from pipelines.data.schema import Document, Entry, Part, parse
from pipelines.errors import UsageError
from pipelines.recipe import suggest


def load(path: Path | None = None) -> Manifest:
    """The manifest: --manifest > VAD_MANIFEST > data_manifest.yaml here or in a parent > the packaged one.

    Entries of the packaged manifest stay available below a user's own; the user's win. An entry with
    `extends: NAME` starts from the packaged entry and replaces whole keys of it.

    Raises:
        MissingArtifactError: the file named by the option or the variable does not exist.
        UsageError: it has errors; all are listed.
    """
    packaged = packaged_path()
    chosen = chosen_path(path)
    own, base = with_packaged(chosen)
    document = parse(own, chosen)
    below = document if chosen == packaged else parse(base, packaged)
    return Manifest(chosen, document, {**below.datasets, **document.datasets}, packaged)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The loaded manifest. `path` is the file that was chosen; `entries` includes those of the packaged one below."""

    path: Path
    document: Document
    entries: dict[str, Entry]
    packaged: Path

    @property
    def cache_dir(self) -> str | None:
        """The file's `cache_dir`, a relative one taken from the manifest's folder."""
        text = self.document.cache_dir
        if text is None or text.startswith("~") or Path(text).is_absolute() or "$" in text:
            return expand_or_raise(text, "cache_dir") if text else None
        return str(self.path.parent / text)

    def names(self) -> list[str]:
        """Every dataset's name: the file's own in its order, then the packaged ones."""
        own = list(self.document.datasets)
        return own + [name for name in self.entries if name not in self.document.datasets]

    def dataset(self, name: str) -> Dataset:
        """The dataset called `name`.

        Raises:
            UsageError: there is none; the nearest name is proposed.
        """
        if name not in self.entries:
            raise UsageError(
                f"no dataset {name!r} in {self.path}{suggest(name, self.names())}",
                hint="`vad data ls` lists them; `vad data init FOLDER` makes an entry for your own videos",
            )
        home = self.path if name in self.document.datasets else self.packaged
        return Dataset(name, self.entries[name], home)


__all__ = ["Dataset", "Manifest", "Part", "load", "packaged_path"]
