"""YOLOX (Ge et al., 2021) exported to ONNX: a COCO detector from a file that the user names, run by onnxruntime.

Expected, and checked when the file is opened: input `images` float32 (1, 3, S, S), BGR 0..255, letterboxed at the top
left with 114; output (1, N, 85) with N the cells of strides 8, 16 and 32: centre offset, log size, objectness, 80 classes,
boxes not decoded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.recipe import Config
from pipelines.regions.boxes import Boxes, nms

STRIDES = (8, 16, 32)
FILL = 114
COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,"
    "tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,"
    "keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
CLASSES = tuple(COCO.split(","))


class YoloxConfig(Config):
    """What counts as a detection; class-agnostic."""

    min_score: float = Field(
        0.3, ge=0, le=1, description="objectness times the best class; 0.5 in the literature's nets"
    )
    nms: float = Field(0.5, ge=0, le=1, description="IoU above which the weaker of two boxes goes, whatever its class")


class Yolox:
    """The network in `path`.

    Raises:
        MissingArtifactError: no such file; UsageError: onnxruntime is not installed.
        VerificationError: the file is no ONNX network, or not one with the input and output above.
    """

    classes = CLASSES

    def __init__(self, name: str, path: Path, config: YoloxConfig) -> None:
        self.name, self.path, self.config = name, path, config
        self.sha256 = _sha256(path)
        self._session = _open(path)
        self.size = _checked(self._session, path)
        self._grid = _grid(self.size)

    @property
    def recipe(self) -> dict[str, object]:
        return {
            "proposer": self.name,
            "revision": 1,
            "weights_sha256": self.sha256,
            **self.config.model_dump(mode="json"),
        }

    def frame(
        self, window: NDArray[np.uint8], at: int, taken: Boxes
    ) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int64]]:
        """See `Proposer.frame`; boxes are cut at the frame's edges."""
        image, ratio = letterbox(window[at], self.size)
        output = self._session.run(None, {self._session.get_inputs()[0].name: image})[0][0]
        boxes, scores, labels = decode(np.asarray(output, np.float32), self._grid, min_score=self.config.min_score)
        height, width = window.shape[1:3]
        limit = np.array([width, height, width, height], np.float32)
        boxes = (boxes / ratio).clip(0, limit)
        kept = nms(boxes, scores, self.config.nms)
        return boxes[kept], scores[kept], labels[kept]


def letterbox(frame: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], float]:
    """uint8 RGB (H, W, 3) -> float32 BGR (1, 3, size, size) at the top left on grey 114, and the factor it was scaled by."""
    from PIL import Image

    height, width = frame.shape[:2]
    ratio = min(size / height, size / width)
    scaled = Image.fromarray(frame).resize(
        (max(1, round(width * ratio)), max(1, round(height * ratio))), Image.Resampling.BILINEAR
    )
    canvas = np.full((size, size, 3), FILL, np.uint8)
    canvas[: scaled.height, : scaled.width] = np.asarray(scaled)
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32), ratio


def decode(
    output: NDArray[np.float32], grid: NDArray[np.float32], *, min_score: float
) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int64]]:
    """output (N, 85), grid (N, 3) of x, y, stride -> boxes (M, 4) of the letterboxed picture, scores and classes."""
    best = output[:, 5:].argmax(axis=1)
    score = output[:, 4] * output[np.arange(len(output)), 5 + best]
    kept = np.flatnonzero(score >= min_score)
    cells, stride = grid[kept, :2], grid[kept, 2:]
    centre = (output[kept, :2] + cells) * stride
    half = np.exp(output[kept, 2:4]) * stride / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return boxes, score[kept].astype(np.float32), best[kept].astype(np.int64)


def _grid(size: int) -> NDArray[np.float32]:
    """(N, 3): x, y and stride of every cell, in the network's order."""
    parts = []
    for stride in STRIDES:
        y, x = np.mgrid[: size // stride, : size // stride]
        parts.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
    return np.concatenate(parts).astype(np.float32)


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise MissingArtifactError(
            f"there is no detector at {path}", hint="--boxes-weights FILE: a YOLOX network exported to ONNX"
        )
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "the detector needs onnxruntime, which is not installed",
            hint="pip install 'vadcli[onnx]', or --boxes motion",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise VerificationError(
            f"{path} is no ONNX network: {str(error).splitlines()[0][:200]}",
            hint="a YOLOX network exported to ONNX; `--boxes motion` needs none",
        ) from error


def _checked(session: Any, path: Path) -> int:
    """The side S of a network with the expected input and output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    square = len(shape) == 4 and shape[1] == 3 and isinstance(shape[2], int) and shape[2] == shape[3]
    size = shape[2] if square and shape[2] % STRIDES[-1] == 0 else 0
    cells = sum((size // stride) ** 2 for stride in STRIDES)
    if not size or len(outputs) != 1 or list(outputs[0].shape)[1:] != [cells, 5 + len(CLASSES)]:
        told = f"{[(i.name, i.shape) for i in inputs]} -> {[(o.name, o.shape) for o in outputs]}"
        raise VerificationError(
            f"{path} is not a YOLOX detector of COCO classes: {told}",
            hint=f"expected images (1, 3, S, S) -> (1, cells of strides 8, 16, 32, {5 + len(CLASSES)})",
        )
    return int(size)
