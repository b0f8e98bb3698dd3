"""A held-out share of a training list: whole groups on one side, classes in proportion."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from pipelines.errors import UsageError, VerificationError
from pipelines.records import Video


def holdout(
    videos: Sequence[Video], share: float, seed: int = 0, *, normal: str | None = None
) -> tuple[list[Video], list[Video]]:
    """(train, val) with about `share` of every class in val, both in list order. [ours]

    A group (same film, same camera walk) is never cut; a video without a group is one of its own. The choice depends
    on the ids, the labels and `seed`, not on the list's order.

    Args:
        videos: a training list.
        share: of the videos of each class, above 0 and below 1.
        seed: of the draw.
        normal: the normal class; where given, both sides must keep normal and abnormal videos.

    Raises:
        UsageError: `share` is out of range, or the groups cannot be parted: one side would lack normal or abnormal
            videos unless a group stood on both sides.
    """
    if not 0 < share < 1:
        raise UsageError(f"the held-out share is {share:g}; it must lie between 0 and 1")
    groups: dict[str, list[Video]] = {}
    for video in sorted(videos, key=lambda video: video.id):
        groups.setdefault(f"group {video.group}" if video.group else f"video {video.id}", []).append(video)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    wanted = {name: share * count for name, count in _classes(videos).items()}
    held: Counter[str] = Counter()
    chosen: set[str] = set()
    for name in order:
        added = held + _classes(groups[name])
        if _distance(wanted, added) < _distance(wanted, held):
            held = added
            chosen |= {video.id for video in groups[name]}
    train = [video for video in videos if video.id not in chosen]
    val = [video for video in videos if video.id in chosen]
    for side, part in (("training", train), ("held-out", val)):
        _require(side, part, videos, len(groups), normal)
    return train, val


def hold_out_normal(videos: Sequence[Video], share: float, seed: int = 0) -> tuple[list[Video], list[Video]]:
    """(train, held out) of a list of normal videos, both in list order: about `share` of each camera's. [ours]

    A camera (or the whole list, where none is known) gives at least one of its videos, and never its last one; a
    group is never cut. The choice depends on the ids and `seed`, not on the list's order. Share 0 holds out nothing.
    """
    by_camera: dict[str, dict[str, list[Video]]] = {}
    for video in sorted(videos, key=lambda video: video.id):
        by_camera.setdefault(video.camera or "", {}).setdefault(video.group or f"video {video.id}", []).append(video)
    chosen: set[str] = set()
    for groups in by_camera.values():
        order = sorted(groups)
        random.Random(seed).shuffle(order)
        wanted = max(1, round(share * sum(map(len, groups.values())))) if share else 0
        for name in order[:-1]:
            if sum(len(groups[g]) for g in order if groups[g][0].id in chosen) >= wanted:
                break
            chosen |= {video.id for video in groups[name]}
    return [v for v in videos if v.id not in chosen], [v for v in videos if v.id in chosen]


def leaks(sides: Iterable[Sequence[Video]]) -> dict[str, tuple[str, ...]]:
    """Groups that stand on two of the sides, with the parts ("train", "val", ...) of their videos."""
    seen: dict[str, set[str]] = {}
    for number, side in enumerate(sides):
        for video in side:
            if video.group:
                seen.setdefault(video.group, set()).add(video.split or str(number))
    return {group: tuple(sorted(parts)) for group, parts in sorted(seen.items()) if len(parts) > 1}


def refuse_leaks(train: Sequence[Video], other: Sequence[Video], *, what: str) -> None:
    """Stop where a group stands on both sides.

    Raises:
        VerificationError: it does; the first groups are named.
    """
    groups = {video.group for video in train if video.group} & {video.group for video in other if video.group}
    if groups:
        shown = ", ".join(sorted(groups)[:3])
        raise VerificationError(
            f"{len(groups)} groups have videos in the training list and in the {what} list: {shown}",
            hint="videos of one group share footage: a choice made on them leaks; --selection last needs none",
        )


def _classes(videos: Iterable[Video]) -> Counter[str]:
    return Counter("+".join(sorted(video.classes)) for video in videos)


def _distance(wanted: dict[str, float], held: Counter[str]) -> float:
    """How far `held` is from the wanted counts, relative to each class: a rare class counts as much as a large one."""
    return sum(abs(count - held[name]) / count for name, count in wanted.items())


def _require(side: str, part: Sequence[Video], videos: Sequence[Video], groups: int, normal: str | None) -> None:
    def kinds(listed: Iterable[Video]) -> set[bool]:
        return {normal in video.classes for video in listed} if normal else {True for _ in listed}

    if kinds(part) != kinds(videos):
        raise UsageError(
            f"{len(videos)} training videos in {groups} groups cannot be parted: the {side} side would lack "
            + ("normal or abnormal videos" if part else "videos") + " unless a group stood on both sides",
            hint="--selection last, another share, or a val part in the manifest",
        )  # fmt: skip
