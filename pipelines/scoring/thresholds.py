"""Which threshold an evaluation uses: given, learnt on normal videos by a policy, or the one that the run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.errors import UsageError
from pipelines.progress import Progress
from pipelines.records import Video
from pipelines.scoring.expand import expand
from pipelines.scoring.gather import without_nan
from pipelines.scoring.operating import learn, parse_policy
from pipelines.scoring.presets import PostProcess, post_process
from pipelines.scoring.protocol import MEAN, Protocol
from pipelines.scoring.smooth import parse_smooth
from pipelines.scoring.sources import ScoreSource

RECORDED = "0.99"  # the quantile of normal frames that a run records at training


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold in use, where it comes from in words, and each camera's own where they are known."""

    value: float | None = None
    source: str | None = None
    by_camera: Mapping[str, float] = field(default_factory=dict)


def choose(
    source: ScoreSource,
    normal: Mapping[str, Sequence[Video]],
    protocol: Protocol,
    dataset: str,
    recorded: Mapping[str, float],
    progress: Progress,
    *,
    quantile: str = RECORDED,
) -> Chosen:
    """The threshold of an evaluation; never from test labels.

    Args:
        source: gives the scores of normal videos.
        normal: part -> its normal videos, outside the evaluated part; the first part with scores is used.
        protocol: its `threshold`, else its `threshold_policy`, else `recorded` where nothing is post-processed.
        dataset: for presets whose filter depends on it.
        recorded: quantile -> score that the run learnt on raw scores of normal videos.
        progress: told what was used.
        quantile: of `recorded`, the one in use.

    Raises:
        UsageError: a policy without any normal material.
    """
    if protocol.threshold is not None:
        return Chosen(protocol.threshold, "given")
    if protocol.threshold_policy is None:
        raw = (protocol.smooth, protocol.normalise, protocol.compat) == ("none", "none", None)
        value = recorded.get(quantile) if raw else None
        return Chosen(value, f"quantile:{quantile} of normal frames, recorded by the run") if value else Chosen()
    policy = parse_policy(protocol.threshold_policy)
    for part, videos in normal.items():
        lacking = set(source.coverage(videos).missing)
        have = [video for video in videos if video.id not in lacking]
        if have:
            provided = source.read(have, progress)
            process = process_of(protocol, dataset)
            frames = []
            for video in have:
                clean = without_nan(provided.scores[video.id], protocol.nan)[0]
                expanded = expand(
                    clean, how=protocol.expand or provided.expand, crop=protocol.crops or MEAN, tail=protocol.tail
                )
                frames.append(process.scores(expanded.scores)[0])
            found = learn(
                frames, policy, fps=[provided.fps.get(v.id) for v in have], cameras=[video.camera for video in have]
            )
            words = f"{found.policy} of {found.videos} normal {part} videos"
            return Chosen(found.value, words, found.by_camera)
    raise UsageError(
        f"--threshold-policy {protocol.threshold_policy} needs scores of normal videos outside the evaluated ones",
        hint="for --scores: bring the training or val videos' scores in the same file; or give --threshold",
    )


def process_of(protocol: Protocol, dataset: str) -> PostProcess:
    """The protocol's steps after expansion."""
    if protocol.compat is not None:
        return post_process(protocol.compat, dataset)
    return PostProcess(
        parse_smooth(protocol.smooth),
        protocol.normalise,
        drop_first=protocol.drop_first,
        drop_last=protocol.drop_last,
    )
