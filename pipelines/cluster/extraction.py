"""From what an extraction would do to the tasks that do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.cluster.jobs import Output, Plan, Task
from pipelines.cluster.plan import default_shards, divide, measured_lengths
from pipelines.errors import VerificationError
from pipelines.extraction.plan import ExtractionPlan, StreamPlan
from pipelines.store.listing import KINDS, known_rate, rows


def job_plan(
    planned: ExtractionPlan,
    argv: Sequence[str],
    *,
    layers: Sequence[Path],
    shards: int | None = None,
    at_once: int | None = None,
    limit_s: float | None = None,
    queued: Mapping[str, str] | None = None,
) -> Plan:
    """The tasks of an extraction: `argv` once for each part of what is to do, without the videos that are queued already.

    Every task repeats the precision and expects these very ids: other weights or another version of an encoder on a
    compute node end it before it writes.
    """
    busy = queued or {}
    todo = [video for video in planned.todo if video.id not in busy]
    missing = dict.fromkeys(v.id for stream in planned.streams for v in stream.missing if v.id not in busy)
    lengths = measured_lengths(todo, {video.id: planned.stats[video.id].size for video in todo})
    division = divide(
        lengths,
        shards=shards or default_shards(len(todo), at_once=at_once),
        frames_per_s=rate_of(planned.streams, layers),
        limit_s=limit_s,
        missing=tuple(missing),
    )
    ids = ",".join(stream.id for stream in planned.streams)
    fixed = (*argv, "--precision", planned.streams[0].recipe.precision, "--expect", ids)
    return Plan(
        name=f"extract-{planned.dataset}",
        dataset=planned.dataset,
        tasks=tuple(Task(fixed, part.videos, part.n_frames, part.seconds) for part in division.parts),
        outputs=tuple(Output(s.choice.encoder.name, s.kind, s.id, str(s.folder)) for s in planned.streams),
        lengths=lengths,
        refused=division.refused,
        again=tuple(sorted({id for s in planned.streams for id in s.replaced} & {video.id for video in todo})),
        precision=planned.streams[0].recipe.precision,
    )


def rate_of(streams: Sequence[StreamPlan], layers: Sequence[Path]) -> float | None:
    """Frames a second to expect: of the last run of each artefact, else of the same encoder on another dataset; the
    slowest encoder counts. None where one has never run."""
    found = []
    for stream in streams:
        own = known_rate(stream.folder)
        others = [
            rate
            for row in rows(layers, kinds=KINDS[:2])
            if own is None and row.encoder == stream.choice.encoder.name and (rate := known_rate(row.folder))
        ]
        if own is None and not others:
            return None
        found.append(own if own is not None else max(others))
    return min(found)


def expect(planned: ExtractionPlan, ids: Sequence[str]) -> None:
    """Refuse to make other features than those that were planned.

    Raises:
        VerificationError: another id; names the encoder and what may have changed.
    """
    for stream in planned.streams:
        if stream.id not in ids:
            raise VerificationError(
                f"{stream.choice.encoder.name} would make {stream.id[:8]} here, planned was {' or '.join(i[:8] for i in ids)}",
                hint="another version of vadcli, other weights or another plug-in file than where it was planned; "
                "the same environment and the same files must be on both",
            )
