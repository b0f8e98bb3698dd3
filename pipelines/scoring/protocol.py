"""The protocol of an evaluation: every choice that changes a number once scores and truth are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipelines.scoring.block import EvalOptions
    from pipelines.scoring.expand import Expand

MEAN = "mean"  # of the crops' scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Everything that changes a number once scores and truth are given; part of the eval id.

    `expand` (None: as the method declares, else by repetition), `crops` (`mean`, or names of which the first that the
    scores have is taken: `center_m|mean`), `tail` lead from clips to frames; `smooth` ("gaussian:3"), `normalise`,
    `drop_first`, `drop_last` follow in that order, or `compat` names a published recipe that replaces them and, where
    they are not given (None), its own `gt` and `crops`. `protocols`, `tious` and
    `detection_videos` belong to `map-iou`; `rounds` 0 leaves intervals out; `floors` "none" leaves floors out.
    `threshold_policy` is `quantile[:q]`, `max-normal` or `target-fa-per-hour:x`; `threshold`, a number, goes before it.
    `map_resize` enlarges score maps to the size of pixel masks.
    """

    gt: str | None = None
    expand: Expand | None = None
    crops: str | None = None
    tail: Literal["hold", "truncate"] = "hold"
    smooth: str = "none"
    normalise: Literal["none", "minmax"] = "none"
    drop_first: int = 0
    drop_last: int = 0
    compat: str | None = None
    nan: Literal["error", "zero", "hold"] = "error"
    protocols: tuple[str, ...] = ("vadclip", "abnormal-only", "activitynet")
    tious: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    detection_videos: Literal["abnormal", "all"] = "abnormal"
    video_score: Literal["max", "topk"] = "max"
    by: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_policy: str | None = None
    floors: Literal["all", "none"] = "all"
    rounds: int = 1000
    seed: int = 0
    map_resize: Literal["nearest", "bilinear"] = "bilinear"

    def resolved(self, dataset: str, truths: Sequence[str]) -> Protocol:
        """With a truth and a crop rule: as given, else the preset's for the dataset, else its first truth and `mean`.

        Args:
            dataset: its name.
            truths: its named truths, the default first.

        Raises:
            UsageError: an unknown preset.
        """
        from pipelines.scoring.presets import preset

        found = preset(self.compat) if self.compat else None
        published = found.gt.get(dataset) if found else None
        gt = self.gt or (published if published in truths else next(iter(truths), None))
        crop = found.crops.get(dataset) if found else None
        crops = self.crops or (f"{crop}|{MEAN}" if crop else MEAN)
        return replace(self, gt=gt, crops=crops)

    def options(
        self,
        *,
        threshold: float | None = None,
        threshold_source: str | None = None,
        by_camera: Mapping[str, float] | None = None,
    ) -> EvalOptions:
        """As the options of `scoring.block`, with the threshold that was chosen for them.

        Raises:
            UsageError: a smoothing that cannot be read.
        """
        from pipelines.scoring.block import EvalOptions
        from pipelines.scoring.smooth import parse_smooth

        return EvalOptions(
            smooth=parse_smooth(self.smooth),
            normalise=self.normalise,
            drop_first=self.drop_first,
            drop_last=self.drop_last,
            preset=self.compat,
            protocols=self.protocols,
            tious=self.tious,
            detection_videos=self.detection_videos,
            video_score=self.video_score,
            map_resize=self.map_resize,
            threshold=threshold,
            threshold_source=threshold_source,
            thresholds_by_camera=by_camera or {},
            by=self.by,
            floors=self.floors,
            rounds=self.rounds,
            seed=self.seed,
        )
