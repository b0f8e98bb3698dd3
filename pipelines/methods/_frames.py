"""What a method that learns from pixels is: windows of frames in; a score, and a map where it has one, for each out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.methods._base import Method, OptimConfig
from pipelines.recipe import Config
from pipelines.records import Scores, WindowedVideo, Windows

Border = Literal["repeat", "clamp", "shift"]


class WindowConfig(Config):
    """How frames become windows and batches."""

    size: int | tuple[int, int] = 256  # of the network's input: a square, or [height, width]
    colour: Literal["rgb", "grey"] = "rgb"
    augment: Literal["crop-flip", "none"] = "crop-flip"  # of training windows: a random crop and a flip, p = 0.5
    margin: float = Field(0.125, ge=0)  # training frames are resized this much larger than the crop (256 -> 288)
    batch: int = Field(32, ge=1)
    stride: int = Field(1, ge=1)  # frames from one training window to the next
    score_stride: int = Field(1, ge=1)  # frames from one scored window to the next; a score holds until then
    score_batch: int = Field(32, ge=1)

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def channels(self) -> int:
        """C of a frame."""
        return 3 if self.colour == "rgb" else 1


class FramesConfig(Config):
    """Base of the configuration of methods that read frames. Budgets count epochs: passes over the training windows."""

    data: WindowConfig = WindowConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="before")
    @classmethod
    def _keep_nested_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Naming one value of `data` or `optim` leaves the method's others as they are."""
        defaults = {name: cls.model_fields[name].default for name in ("data", "optim")}
        return values | {
            name: default.model_dump() | values[name]
            for name, default in defaults.items()
            if isinstance(values.get(name), dict)
        }

    val_fraction: float = Field(0.2, ge=0, lt=1)  # of the normal training videos: held out for plateau and thresholds
    theta_quantile: float = Field(0.99, gt=0, lt=1)  # of the held-out normal frame scores: the threshold


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """The windows that a phase reads: the frames t + o for each offset o around the frame t that a window speaks for.

    `border` says what stands for frames before the first or after the last: the frame t itself (`repeat`), the nearest
    frame (`clamp`), or the whole window moves inside (`shift`; frames repeat only where the video is shorter).
    With `partner` (least, most) a batch also brings each window at t + k or t - k, k drawn between both.
    """

    config: WindowConfig
    offsets: tuple[int, ...] = (0,)
    border: Border = "repeat"
    partner: tuple[int, int] | None = None


class FrameMethod(Method):
    """A method of KIND "frames". Scoring holds one batch of windows at a time, whatever the video's length."""

    supervision = "one-class"
    spec: WindowSpec

    @abstractmethod
    def score_windows(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Scores (B,) of the frames that the windows speak for, and their maps (B, h, w) of the whole picture."""

    def score(self, bag: WindowedVideo) -> Scores:
        """A score a window, on the frames from its own to the next window's."""
        starts, clips, maps = [], [], []
        for windows in bag.windows:
            values, found = self.score_windows(windows)
            starts.append(windows.frames.cpu().numpy())
            clips.append(values.float().cpu().numpy())
            if found is not None:
                maps.append(found.float().cpu().numpy())
        at = np.concatenate(starts)
        return Scores(
            video_id=bag.video_id,
            clips=np.concatenate(clips)[None],
            spans=np.stack([at, np.append(at[1:], bag.n_frames())], axis=1),
            n_frames=bag.n_frames(),
            stride=self.spec.config.score_stride,
            maps={"score": np.concatenate(maps)} if maps else {},
        )
