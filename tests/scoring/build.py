"""EvalData for tests: from label arrays, or from the shared annotation files."""

from __future__ import annotations

import numpy as np

from pipelines.metrics.operating import runs
from pipelines.records import Event, VideoTruth
from pipelines.scoring.block import EvalData
from pipelines.scoring.expand import FrameScores


def truth(video, labels, name="abnormal"):
    """The truth of a video whose events are the runs of its labels."""
    labels = np.asarray(labels, dtype=bool)
    events = tuple(Event(int(a), int(b), name) for a, b in runs(labels))
    return VideoTruth(video, labels, events, (name,) if events else ("normal",))


def evaluation(
    labels, scores=None, *, kind="weak", classes=("normal", "abnormal"), dataset="", class_scores=None, **more
):
    """EvalData of {video: labels} with {video: scores} (ones without)."""
    truths = [truth(v, y, classes[1]) for v, y in labels.items()]
    frames = [
        FrameScores(
            t.video_id,
            np.ones(t.n_frames) if scores is None else np.asarray(scores[t.video_id], dtype=np.float64),
            t.n_frames,
            None if class_scores is None else class_scores[t.video_id],
        )
        for t in truths
    ]
    return EvalData(frames, truths, classes, dataset, kind, **more)


def shared_labels(shared, name):
    """{video: frame labels} of a shared label file: shanghaitech, avenue-interval, avenue-pixel, ped2, ucf, xd."""
    notes = shared / "annotations"
    if name == "ped2":
        arrays = np.load(shared / "ped2" / "gt_masks.npz", allow_pickle=False)
        return {v: arrays[v].any(axis=(1, 2)) for v in sorted(arrays.files)}
    if name.startswith("avenue"):
        arrays = np.load(notes / "avenue" / "frame_labels.npz", allow_pickle=False)
        prefix = "mnad_" if name == "avenue-interval" else "pixelmask_"
        return {v: arrays[v] > 0 for v in sorted(arrays.files) if v.startswith(prefix)}
    files = {
        "shanghaitech": "shanghaitech/test_frame_mask.npz",
        "ucf": "ucf-crime/pel4vad_frame_gt.npz",
        "xd": "xd-violence/pel4vad_frame_gt.npz",
    }
    arrays = np.load(notes / files[name], allow_pickle=False)
    return {v: arrays[v] > 0 for v in sorted(arrays.files)}
