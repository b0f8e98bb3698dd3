"""Whether a source file is still the one that was decoded: size and times first, its hash only where they differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.records import VideoFacts

SIZE = "source_size"
MTIME = "source_mtime_ns"


@dataclass(frozen=True, slots=True)
class SourceStat:
    """Size and times of a video file, or of all files of a frame folder together (sum and newest)."""

    path: Path
    size: int
    mtime_ns: int
    changed_s: float  # when content or name last changed, in epoch seconds (the newest of mtime and ctime)

    def facts(self) -> dict[str, int]:
        """What is stored beside the features to recognise the file again."""
        return {SIZE: self.size, MTIME: self.mtime_ns}

    def unchanged(self, facts: VideoFacts) -> bool:
        """True when the stored features belong to this file.

        Equal size and modification time are trusted; another size is another file; otherwise (a copy, a touched
        file, features from elsewhere) the fingerprint decides. Features without a fingerprint are never outdated.
        """
        if facts.source is None:
            return True
        size, mtime = facts.extra.get(SIZE), facts.extra.get(MTIME)
        if size is not None and size != self.size:
            return False
        if size is not None and mtime == self.mtime_ns:
            return True
        from pipelines.video.decode import source_fingerprint

        return source_fingerprint(self.path) == facts.source


def stat_source(path: Path) -> SourceStat | None:
    """Size and times of the file or frame folder at `path`; None when there is nothing."""
    try:
        own = path.stat()
    except OSError:
        return None
    if not path.is_dir():
        return SourceStat(path, own.st_size, own.st_mtime_ns, max(own.st_mtime, own.st_ctime))
    size, mtime, changed = 0, own.st_mtime_ns, max(own.st_mtime, own.st_ctime)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                stat = entry.stat()
                size += stat.st_size
                mtime = max(mtime, stat.st_mtime_ns)
                changed = max(changed, stat.st_mtime, stat.st_ctime)
    return SourceStat(path, size, mtime, changed)
