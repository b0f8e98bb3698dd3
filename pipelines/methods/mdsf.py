"""MDSF: where a student disagrees with its teacher, at four scales, amplified by channel and fused by saliency.

Saliency-Driven Multi-Scale Feature Discrepancy Fusion for Fine-Grained Video Anomaly Detection. The paper prints eq. 1-11 and
the student's reconstruction loss; its attention and saliency then get no gradient, and nothing ties the student's channels to
the teacher's. Both are completed here [ours]: the student learns the teacher's features, and the MDSF module learns from
pseudo-anomalies pasted into normal frames (`supervision`). A sigmoid gate only damps (`amplify: one_plus` amplifies).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import Fit, OptimConfig, Phase, Resources, Shape
from pipelines.methods._frames import FrameMethod, FramesConfig, WindowConfig, WindowSpec
from pipelines.methods._pasted import paste
from pipelines.records import Windows

NAME = "mdsf"
SUMMARY = "teacher and student discrepancy at four scales, fused by saliency; learns from normal frames"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
EPS = 1e-6
CLIP_STEP = 3  # frames from one to the next of `clip_frames: 3` [code] the step of the paper's base, SD-MAE
PARTNER = (5, 30)  # frames from a window to the other moment that a pseudo-anomaly mixes in


class Config(FramesConfig):
    """Values are [ours] where the paper is silent: all but the loss, Adam at 1e-4 and the falling rate."""

    epochs: float = Field(50, gt=0, description="half for the teacher, half for the student; the paper: 50 to 100")
    module_epochs: float = Field(10, gt=0, description="of the MDSF module")
    module_lr: float = 1e-3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    student_ratio: float = Field(0.5, gt=0)
    blocks: int = Field(1, ge=0, description="residual blocks of a scale")
    project: Literal["1x1"] = "1x1"
    align_width: int = Field(128, ge=1)
    align_nonneg: bool = True
    se_reduction: int = Field(16, ge=1)
    feat_norm: Literal["channel_std", "none"] = "channel_std"
    mask_ratio: float = Field(0.5, ge=0, lt=1)
    mask_patch: int = Field(16, ge=1)
    mask_test: int = Field(0, ge=0, description="fixed masks averaged at test; 0: the whole frame")
    motion_weight: bool = False
    clip_frames: Literal[1, 3] = 1
    distill: Literal["feature", "none"] = "feature"
    supervision: Literal["pseudo", "whitened", "none"] = "pseudo"
    paste_area: tuple[float, float] = (0.02, 0.15)
    amplify: Literal["gate", "one_plus", "off"] = "gate"
    scales: Literal["all", "deepest"] = "all"
    saliency: Literal["guided", "equal"] = "guided"
    score_pool: Literal["l2", "max", "topk"] = "l2"
    topk: float = Field(0.01, gt=0, le=1)
    data: WindowConfig = WindowConfig()
    optim: OptimConfig = OptimConfig(lr=1e-4, schedule="plateau", gamma=0.1, patience=5)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "widths": [16, 32, 64, 128],
        "epochs": 20,
        "module_epochs": 4,
        "align_width": 32,
        "se_reduction": 4,
        "clip_frames": 3,
        "supervision": "whitened",
        "mask_patch": 8,
        "data": {"size": 128, "stride": 2},
        "optim": {"lr": 1e-3},
    },
}


class Residual(nn.Module):
    """Conv3x3 BN GELU Conv3x3 BN, added to the input, then GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(width, width), nn.GELU(), *_conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.body(x))


class Encoder(nn.Module):
    """A stem of stride 2, then a stage of stride 2 for each scale: x (B, C, h, w) -> features at strides 4, 8, 16, 32."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(channels, widths[0], stride=2), nn.GELU())
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.stages = nn.ModuleList(
            nn.Sequential(*_conv(a, b, stride=2), nn.GELU(), *(Residual(b) for _ in range(blocks))) for a, b in pairs
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """The encoder's mirror, from the deepest scale alone: nearest x2 and Conv3x3 BN GELU; at last Conv3x3 to the frame."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        down = [*reversed(widths), widths[0]]
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Upsample(scale_factor=2), *_conv(a, b), nn.GELU()) for a, b in pairwise(down)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(widths[0], channels, 3, padding=1),
        )

    def forward(self, deepest: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C', h/32, w/32) -> (B, C, *size)."""
        x: Tensor = self.body(deepest)
        return x[..., : size[0], : size[1]]


class Scale(nn.Module):
    """Eq. 6-8 at one scale: channel attention, alignment, saliency."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        hidden = max(1, width // config.se_reduction)
        attends = config.amplify != "off" and config.supervision != "whitened"
        self.attention = _squeeze_excite(width, hidden) if attends else None
        self.align = nn.Parameter(torch.empty(config.align_width, width))
        if config.align_nonneg:
            nn.init.normal_(self.align, mean=_inverse_softplus(1.0 / width), std=1.0)
        else:
            nn.init.normal_(self.align, std=width**-0.5)
        self.nonneg, self.one_plus = config.align_nonneg, config.amplify == "one_plus"
        guided = config.saliency == "guided" and config.supervision != "whitened"
        self.saliency = nn.Conv2d(config.align_width, 1, 1) if guided else None

    def amplified(self, diff: Tensor) -> Tensor:
        """Eq. 6-7: diff (B, C, h, w) -> the same shape, each channel weighted."""
        if self.attention is None:
            return diff
        weight = self.attention(diff.mean((2, 3)))[:, :, None, None]  # (B, C, 1, 1)
        amplified: Tensor = diff * (1 + weight if self.one_plus else weight)
        return amplified

    def aligned(self, amplified: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, h, w) -> (B, align_width, *size), bilinear."""
        weight = F.softplus(self.align) if self.nonneg else self.align
        mixed = F.conv2d(amplified, weight[:, :, None, None])
        return F.interpolate(mixed, size=list(size), mode="bilinear", align_corners=False)


class Mdsf(FrameMethod):
    """The three phases and the score. Decoders and the mask's colour are not used by eq. 10."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        clip = (-CLIP_STEP, 0, CLIP_STEP) if config.clip_frames == 3 else (0,)
        self.clip = clip
        self.spec = WindowSpec(config.data, clip, "repeat")
        small = tuple(max(1, round(width * config.student_ratio)) for width in config.widths)
        inputs = channels * config.clip_frames
        self.teacher, self.teacher_decoder = (
            Encoder(inputs, config.widths, config.blocks),
            Decoder(channels, config.widths),
        )
        self.student, self.student_decoder = Encoder(inputs, small, config.blocks), Decoder(channels, small)
        self.project = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(small, config.widths, strict=True))
        self.mask_colour = nn.Parameter(torch.zeros(inputs))
        self.used = (
            range(len(config.widths) - 1, len(config.widths))
            if config.scales == "deepest"
            else range(len(config.widths))
        )
        self.module = nn.ModuleList(Scale(config.widths[s], config) for s in self.used)
        for s, width in enumerate(config.widths):
            self.register_buffer(f"std_{s}", torch.ones(width))
        if config.supervision == "whitened":
            _register_whitening(self, config)
        if config.supervision == "none":
            self.notes = (
                "supervision none: attention and saliency keep their random weights, as the paper is written",
            )
        if config.distill == "none":
            self.notes = (*self.notes, "distill none: eq. 5 compares features that nothing has aligned")

    @property
    def parts(self) -> list[Scale]:
        """The MDSF module of each used scale."""
        return cast(list[Scale], list(self.module))

    # -- phases --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase | Fit]:
        """Teacher, its channels' deviations, student, then the module by its kind of supervision."""
        c, half = self.config, self.config.epochs / 2
        offsets = tuple(sorted({*self.clip, -1, 1})) if c.motion_weight else self.clip
        teacher = [*self.teacher.parameters(), *self.teacher_decoder.parameters()]
        teacher += [self.mask_colour] if c.mask_ratio else []
        student = [*self.student.parameters(), *self.student_decoder.parameters()]
        student += [*self.project.parameters()] if c.distill == "feature" else []
        first = self._phase("teacher", teacher, WindowSpec(c.data, offsets), self.teacher_losses, half, c.optim)
        second = self._phase("student", student, self.spec, self.student_losses, half, c.optim)
        found: list[Phase | Fit] = [first, *self._channel_std(), second]
        if c.supervision == "pseudo":
            spec = WindowSpec(c.data, self.clip, partner=PARTNER)
            optim = c.optim.model_copy(update={"lr": c.module_lr, "schedule": "constant"})
            parameters = list(self.module.parameters())
            found.append(self._phase("mdsf", parameters, spec, self.module_losses, c.module_epochs, optim))
        elif c.supervision == "whitened":
            found += [Fit("channels", self.spec, self._whiten_channels), Fit("places", self.spec, self._whiten_places)]
        return found

    def _phase(
        self,
        name: str,
        parameters: list[nn.Parameter],
        spec: WindowSpec,
        losses: Any,
        epochs: float,
        optim: OptimConfig,
    ) -> Phase:
        def validate(windows: Windows) -> Tensor:
            return torch.stack(list(losses(windows).values())).sum()

        watched = validate if optim.schedule == "plateau" else None
        return Phase(name, [{"params": parameters}], spec, losses, 0, optim, epochs=epochs, validate=watched)

    def _channel_std(self) -> list[Fit]:
        return [Fit("channel std", self.spec, self._measure_std)] if self.config.feat_norm == "channel_std" else []

    def teacher_losses(self, windows: Windows) -> dict[str, Tensor]:
        """Phase 1: a masked frame in, the whole frame out, MSE over all pixels; moving pixels weigh more if asked."""
        frames, target = self._frames(windows)
        decoded = self.teacher_decoder(self.teacher(self._masked(frames))[-1], target.shape[2:])
        error = (decoded - target).square()
        if self.config.motion_weight:
            error = error * (1 + _motion(windows, self.teacher_offsets))
        return {"reconstruct": error.mean()}

    @property
    def teacher_offsets(self) -> tuple[int, ...]:
        """Offsets of the teacher phase's windows."""
        return tuple(sorted({*self.clip, -1, 1})) if self.config.motion_weight else self.clip

    def student_losses(self, windows: Windows) -> dict[str, Tensor]:
        """Phase 2: the paper's MSE of the student's reconstruction, and its features against the frozen teacher's."""
        self.teacher.eval()
        frames, target = self._frames(windows)
        features = self.student(frames)
        decoded = self.student_decoder(features[-1], target.shape[2:])
        terms = {"reconstruct": (decoded - target).square().mean()}
        if self.config.distill == "feature":
            with torch.no_grad():
                taught = self.teacher(frames)
            terms["distill"] = torch.stack(
                [
                    ((project(s) - t) / std).square().mean()
                    for project, s, t, std in zip(self.project, features, taught, self._stds(), strict=True)
                ]
            ).mean()
        return terms

    def module_losses(self, windows: Windows) -> dict[str, Tensor]:
        """Phase 3: saliency where a pseudo-anomaly was pasted (BCE and Dice), none where nothing was; a margin of scores."""
        for frozen in (self.teacher, self.student, self.project):
            frozen.eval()
        with torch.no_grad():
            pasted, mask = paste(windows.x, windows.extras["partner"], area=self.config.paste_area)
            clean_diffs = self.discrepancies(self._stack(windows.x))
            pasted_diffs = self.discrepancies(self._stack(pasted))
        clean, pasted_out = self.fuse(clean_diffs), self.fuse(pasted_diffs)
        terms: dict[str, Tensor] = {}
        if self.config.saliency == "guided":
            masks = [_pooled(mask, diff.shape[2:], clean[0].shape[2:]) for diff in clean_diffs]
            rows = list(zip(clean[1], pasted_out[1], masks, strict=True))
            terms["bce"] = torch.stack(
                [
                    F.binary_cross_entropy_with_logits(b, m)
                    + F.binary_cross_entropy_with_logits(a, torch.zeros_like(a))
                    for a, b, m in rows
                ]
            ).sum()
            terms["dice"] = torch.stack([_dice(b.sigmoid(), m) for _, b, m in rows]).sum()
        logs = [_frobenius(fused).clamp_min(EPS).log() for fused in (clean[0], pasted_out[0])]
        terms["margin"] = 0.1 * F.softplus(0.5 - (logs[1] - logs[0])).mean()
        return terms

    # -- the score -----------------------------------------------------------------------------------------------

    def score_windows(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Eq. 10 and its spatial map: scores (B,), the channel norm of the fused map (B, h/4, w/4)."""
        frames = self._stack(windows.x)
        place = self.spatial_map(frames) if not self.config.mask_test else self._masked_map(frames)
        return self._pool(place), place

    def spatial_map(self, frames: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h/4, w/4)."""
        fused, _ = self.fuse(self.discrepancies(frames))
        return _norm(fused)

    def discrepancies(self, frames: Tensor) -> list[Tensor]:
        """Eq. 5 at each used scale, on features divided by the teacher's channel deviations."""
        taught, learnt, stds = self.teacher(frames), self.student(frames), self._stds()
        return [((taught[s] - self.project[s](learnt[s])) / stds[s]).abs() for s in self.used]

    def fuse(self, diffs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Eq. 6-9: the fused map (B, align_width, h/4, w/4) and each scale's saliency logits (B, 1, h/4, w/4)."""
        size = [n * 2 ** self.used[0] for n in diffs[0].shape[2:]]
        if self.config.supervision == "whitened":
            return self._fuse_whitened(diffs, size), []
        parts, logits = [], []
        for scale, diff in zip(self.parts, diffs, strict=True):
            aligned = scale.aligned(scale.amplified(diff), size)
            if scale.saliency is not None:
                logits.append(scale.saliency(aligned))
                aligned = aligned * logits[-1].sigmoid()
            parts.append(aligned)
        return torch.stack(parts).sum(0), logits

    def _pool(self, place: Tensor) -> Tensor:
        flat = place.flatten(1)
        match self.config.score_pool:
            case "l2":
                return _norm(flat)
            case "max":
                return flat.amax(1)
            case "topk":
                return flat.topk(max(1, round(self.config.topk * flat.shape[1]))).values.mean(1)

    def _masked_map(self, frames: Tensor) -> Tensor:
        """The mean map over `mask_test` masks of fixed seeds."""
        maps = []
        for seed in range(self.config.mask_test):
            generator = torch.Generator().manual_seed(seed)
            maps.append(self.spatial_map(self._masked(frames[:1].expand_as(frames), generator, frames)))
        return torch.stack(maps).mean(0)

    # -- frames and statistics -----------------------------------------------------------------------------------

    def _frames(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """The stacked input (B, C * clip_frames, h, w) and the frame to reconstruct (B, C, h, w)."""
        offsets = self.teacher_offsets if windows.x.shape[1] == len(self.teacher_offsets) else self.clip
        picked = windows.x[:, [offsets.index(o) for o in self.clip]]
        return self._stack(picked), picked[:, len(self.clip) // 2]

    def _stack(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def _masked(self, frames: Tensor, generator: torch.Generator | None = None, of: Tensor | None = None) -> Tensor:
        """Patches replaced by one learned colour; the same patches of every frame under a generator."""
        c = self.config
        x = frames if of is None else of
        if not c.mask_ratio:
            return x
        h, w = (-(-n // c.mask_patch) for n in x.shape[2:])
        rows = 1 if generator is not None else len(x)
        noise = torch.rand(rows, h * w, generator=generator).to(x.device)
        hidden = torch.zeros_like(noise).scatter_(1, noise.topk(round(c.mask_ratio * h * w), dim=1).indices, 1.0)
        mask = F.interpolate(hidden.view(rows, 1, h, w), scale_factor=c.mask_patch)[..., : x.shape[2], : x.shape[3]]
        return x * (1 - mask) + self.mask_colour[None, :, None, None] * mask

    def _stds(self) -> list[Tensor]:
        return [getattr(self, f"std_{s}")[None, :, None, None] for s in range(len(self.config.widths))]

    def _measure_std(self, batches: Iterable[Windows]) -> None:
        """Each channel's deviation over every place of every training frame, in float64."""
        found = [_Moments() for _ in self.config.widths]
        for windows in batches:
            for moments, features in zip(found, self.teacher(self._stack(windows.x)), strict=True):
                moments.add(features)
        for s, moments in enumerate(found):
            getattr(self, f"std_{s}").copy_(moments.std.clamp_min(EPS))

    def _whiten_channels(self, batches: Iterable[Windows]) -> None:
        found = [_Moments() for _ in self.used]
        for windows in batches:
            for moments, diff in zip(found, self.discrepancies(self._stack(windows.x)), strict=True):
                moments.add(diff)
        for s, moments in zip(self.used, found, strict=True):
            weight = 1 / (moments.std + EPS)
            getattr(self, f"mu_{s}").copy_(moments.mean)
            getattr(self, f"weight_{s}").copy_(weight / weight.mean())

    def _whiten_places(self, batches: Iterable[Windows]) -> None:
        """Mean and deviation of each place's excess, over the training frames."""
        total: list[Tensor] = []
        square: list[Tensor] = []
        count = 0
        for windows in batches:
            excess = [d.mean(1).double() for d in self._excess(self.discrepancies(self._stack(windows.x)))]
            sums = [e.sum(0) for e in excess]
            squares = [e.square().sum(0) for e in excess]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
            square = [a + b for a, b in zip(square, squares, strict=True)] if square else squares
            count += len(windows.x)
        for s, a, b in zip(self.used, total, square, strict=True):
            mean = a / count
            getattr(self, f"place_mean_{s}").copy_(mean)
            getattr(self, f"place_std_{s}").copy_((b / count - mean.square()).clamp_min(0).sqrt() + EPS)

    def _excess(self, diffs: Sequence[Tensor]) -> list[Tensor]:
        """relu(F_diff - mu) * w, per channel."""
        return [
            F.relu(diff - getattr(self, f"mu_{s}")[None, :, None, None])
            * getattr(self, f"weight_{s}")[None, :, None, None]
            for s, diff in zip(self.used, diffs, strict=True)
        ]

    def _fuse_whitened(self, diffs: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        parts = []
        for s, scale, excess in zip(self.used, self.parts, self._excess(diffs), strict=True):
            z = (excess.mean(1) - getattr(self, f"place_mean_{s}")) / getattr(self, f"place_std_{s}")  # (B, h, w)
            saliency = z.sigmoid() if self.config.saliency == "guided" else torch.ones_like(z)
            parts.append(scale.aligned(excess * saliency[:, None], size))
        return torch.stack(parts).sum(0)

    def complexity(self, clips: int) -> dict[str, float]:
        """Parameters; `inference` leaves the decoders and the mask's colour out."""
        found = super().complexity(clips)
        unused = [*self.teacher_decoder.parameters(), *self.student_decoder.parameters(), self.mask_colour]
        return found | {"inference": found["parameters"] - sum(p.numel() for p in unused)}


class _Moments:
    """Mean and deviation per channel, gathered in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.square = 0, torch.zeros(()).double(), torch.zeros(()).double()

    def add(self, x: Tensor) -> None:
        """x (B, C, h, w)."""
        self.count += x.numel() // x.shape[1]
        values = x.double()
        self.total = self.total + values.sum((0, 2, 3)).cpu()
        self.square = self.square + values.square().sum((0, 2, 3)).cpu()

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        return (self.square / self.count - self.mean.square()).clamp_min(0).sqrt()


def build(config: Config, shape: Shape, resources: Resources) -> Mdsf:
    """The method on frames."""
    return Mdsf(config, config.data.channels)


def _register_whitening(method: Mdsf, config: Config) -> None:
    """Buffers of the closed form: per channel, and per place of each scale."""
    for s in method.used:
        stride = 4 * 2**s
        h, w = (-(-n // stride) for n in config.data.hw)
        method.register_buffer(f"mu_{s}", torch.zeros(config.widths[s]))
        method.register_buffer(f"weight_{s}", torch.ones(config.widths[s]))
        method.register_buffer(f"place_mean_{s}", torch.zeros(h, w))
        method.register_buffer(f"place_std_{s}", torch.ones(h, w))


def _conv(a: int, b: int, *, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b)


def _squeeze_excite(width: int, hidden: int) -> nn.Sequential:
    """Eq. 6's MLP. Its inputs are means of absolute values: with weights that begin positive no hidden unit is born dead."""
    first = nn.Linear(width, hidden)
    with torch.no_grad():
        first.weight.abs_()
        first.bias.abs_()
    return nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, width), nn.Sigmoid())


def _inverse_softplus(value: float) -> float:
    return float(torch.tensor(value).expm1().log())


def _norm(x: Tensor) -> Tensor:
    """L2 norm along the second axis."""
    found: Tensor = torch.linalg.vector_norm(x, dim=1)
    return found


def _frobenius(fused: Tensor) -> Tensor:
    return _norm(fused.flatten(1))


def _pooled(mask: Tensor, small: Sequence[int], size: Sequence[int]) -> Tensor:
    """A mask as its scale sees it: the largest value under each place, so that small masks survive; then at `size`."""
    return F.interpolate(F.adaptive_max_pool2d(mask, list(small)), size=list(size))


def _dice(saliency: Tensor, mask: Tensor) -> Tensor:
    """1 - Dice of each row, averaged."""
    overlap = (saliency * mask).sum((1, 2, 3))
    return (1 - (2 * overlap + 1) / (saliency.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)).mean()


def _motion(windows: Windows, offsets: Sequence[int]) -> Tensor:
    """|frame[t-1] - frame[t+1]| of each pixel over its frame's greatest; 0 in a frame without motion. (B, 1, h, w)."""
    moved = (windows.x[:, offsets.index(-1)] - windows.x[:, offsets.index(1)]).abs().mean(1, keepdim=True)
    return moved / (moved.amax((2, 3), keepdim=True) + EPS)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "avenue", "features": "frames", "metric": "auc", "value": 86.4, "source": "the paper, truth not said"},
    {
        "dataset": "avenue",
        "features": "frames",
        "metric": "macro-auc",
        "value": 85.2,
        "source": "the paper, rule not said",
    },
    {"dataset": "ped2", "features": "frames", "metric": "auc", "value": 95.0},
    {
        "dataset": "ped2",
        "features": "frames",
        "metric": "macro-auc",
        "value": 98.0,
        "source": "the paper, rule not said",
    },
    {"dataset": "shanghaitech", "features": "frames", "metric": "auc", "value": 72.1},
    {
        "dataset": "shanghaitech",
        "features": "frames",
        "metric": "macro-auc",
        "value": 81.2,
        "source": "the paper, rule not said",
    },
)
