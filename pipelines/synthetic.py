"""Short videos of moving figures with known anomalies: what `vad demo` and tests run the whole chain on. [ours]

Six anomaly classes in three groups of two that look alike, so that neither appearance nor motion alone is enough:
running / darting differ from walking, and from each other, by motion only (any single frame shows people walking);
cyclist / cart move at a walker's pace and differ by appearance only; fire / smoke share shape and place and differ
from each other by colour and flicker. In every video, normal or not, gusts shake a tree, so that the amount of motion
alone is a poor score, and two harmless things happen (a dog, a ball, a balloon, birds, a pram, a cloud's shadow), so
that being rare is a poor score too: only the labels say what is an anomaly.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines import artifacts
from pipelines.errors import UsageError
from pipelines.progress import Progress, Silent
from pipelines.records import Event

GROUPS = (("running", "darting"), ("cyclist", "cart"), ("fire", "smoke"))
CLASSES = ("normal", *(name for group in GROUPS for name in group))
PARTS = ("train", "val", "test")
PHRASES = {  # look-alike classes share a word, so that text vectors group them
    "running": "person running",
    "darting": "person darting",
    "cyclist": "vehicle bicycle",
    "cart": "vehicle cart",
    "fire": "plume fire",
    "smoke": "plume smoke",
}
DATASET = "vad-demo"
WIDTH, HEIGHT, FPS = 320, 240, 12
HARMLESS = ("dog", "ball", "balloon", "birds", "pram", "shadow")
SHADE = 0.72
GENERATOR = 1  # raised when the pixels of a given seed change
SMALLEST = 20
STAMP = "demo.json"

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """One video to be: its id, part, class, seed words, length and true intervals (frames, half-open)."""

    id: str
    part: str
    label: str
    seed: tuple[int, ...]
    n_frames: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` leaves: the manifest, the dataset's name in it, and how many videos were made now."""

    manifest: Path
    dataset: str
    plans: tuple[Plan, ...]
    made: int


def plan(*, videos: int = 60, seed: int = 0) -> list[Plan]:
    """The videos: half of train normal, a third of test; the parts draw from seeds that never meet.

    Raises:
        UsageError: fewer videos than two of each class need.
    """
    if videos < SMALLEST:
        raise UsageError(f"--videos {videos}: at least {SMALLEST} are needed for every class to appear on both sides")
    kinds = CLASSES[1:]
    n_test, n_val = round(0.3 * videos), round(0.1 * videos)
    counts = {"train": videos - n_test - n_val, "val": n_val, "test": n_test}
    share = {"train": 1 / 2, "val": 1 / 2, "test": 1 / 3}
    planned = []
    for number, part in enumerate(PARTS):
        normal = round(counts[part] * share[part])
        for index in range(counts[part]):
            label = "normal" if index < normal else kinds[(index - normal) % len(kinds)]
            planned.append(_plan_one(part, label, index, (seed, number, index)))
    return planned


def frames(planned: Plan) -> Iterator[NDArray[np.uint8]]:
    """The frames of a planned video, (HEIGHT, WIDTH, 3) uint8 each; the same plan gives the same pixels."""
    rng = np.random.default_rng(planned.seed)
    background, tree = _background(rng), _Tree.random(rng, planned.n_frames)
    walkers = sorted((_Walker.random(rng) for _ in range(int(rng.integers(4, 8)))), key=lambda walker: walker.y)
    actors = [
        _Actor(planned.label, event, _Walker.random(rng), float(rng.uniform(70, 250))) for event in planned.events
    ]
    harmless = [_Harmless.random(rng, planned.n_frames) for _ in range(2)]
    grain = rng.normal(0, 2.0, (8, HEIGHT, WIDTH, 1)).astype(np.float32)
    drift, phase = float(rng.uniform(0.01, 0.05)), float(rng.uniform(0, 6))
    for frame in range(planned.n_frames):
        image = background.copy()
        draw = ImageDraw.Draw(image)
        for walker in walkers:
            walker.draw(draw, frame, actors)
        for actor in actors:
            if actor.event.start_frames <= frame < actor.event.end_frames:
                actor.draw(draw, frame - actor.event.start_frames, rng)
        light = 1 + drift * math.sin(phase + 2 * math.pi * frame / (6 * FPS))
        for one in harmless:
            if one.start <= frame < one.end:
                one.draw(draw, (frame - one.start) / FPS)
                light *= SHADE if one.kind == "shadow" else 1
        lit = np.asarray(image, dtype=np.float32) * light + grain[int(rng.integers(len(grain)))]
        tree.shake(lit, frame, rng)
        yield lit.clip(0, 255).astype(np.uint8)


def write(folder: Path, *, videos: int = 60, seed: int = 0, progress: Progress = Silent()) -> Written:
    """Videos, lists, events and a manifest below `folder`; what is there already is kept.

    Raises:
        UsageError: the folder holds a demo with another seed or another number of videos.
    """
    planned = plan(videos=videos, seed=seed)
    _claim(folder, {"generator": GENERATOR, "videos": videos, "seed": seed})
    media = folder / "videos"
    media.mkdir(exist_ok=True)
    missing = [one for one in planned if not (media / f"{one.id}.mp4").exists()]
    if missing:
        progress.start(len(missing), "writing videos")
        for one in missing:
            _write_video(media / f"{one.id}.mp4", one)
            progress.advance()
        progress.finish()
    artifacts.write_text(folder / "videos.csv", _videos_csv(planned))
    artifacts.write_text(folder / "events.csv", _events_csv(planned))
    artifacts.write_text(folder / "data_manifest.yaml", _MANIFEST)
    return Written(folder / "data_manifest.yaml", DATASET, tuple(planned), len(missing))


def _plan_one(part: str, label: str, index: int, seed: tuple[int, ...]) -> Plan:
    rng = np.random.default_rng([*seed, 7])
    n_frames = int(rng.integers(6 * FPS, 12 * FPS + 1))
    events: tuple[Event, ...] = ()
    if label != "normal":
        length = int(rng.integers(2 * FPS, min(4 * FPS, n_frames // 2) + 1))
        start = int(rng.integers(0, n_frames - length + 1))
        events = (Event(start, start + length, label),)
    return Plan(f"{part}-{index:02d}-{label}", part, label, seed, n_frames, events)


def _background(rng: np.random.Generator) -> Image.Image:
    """A wall, a pavement with low-frequency texture, and a few still boxes."""
    horizon = int(rng.integers(70, 110))
    wall, ground = (rng.integers(90, 170) + rng.integers(-14, 15, 3) for _ in range(2))
    pixels = np.empty((HEIGHT, WIDTH, 3), np.float32)
    pixels[:horizon], pixels[horizon:] = wall, ground
    coarse = Image.fromarray(rng.integers(0, 255, (15, 20), dtype=np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    pixels += (np.asarray(coarse, dtype=np.float32)[..., None] - 128) * 0.12
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 5))):
        x, w, h = int(rng.integers(0, WIDTH - 40)), int(rng.integers(20, 60)), int(rng.integers(15, 50))
        draw.rectangle((x, horizon - h, x + w, horizon), fill=_grey(rng, 70, 190))
    return image


@dataclass(frozen=True, slots=True)
class _Walker:
    """A figure that walks to and fro between the edges; some stand still for a while."""

    x: float
    y: float
    speed: float  # pixels a second, signed
    size: float
    phase: float
    shirt: Colour
    trousers: Colour
    skin: Colour
    pause_s: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> _Walker:
        y = float(rng.uniform(150, 225))
        return cls(
            x=float(rng.uniform(0, WIDTH)),
            y=y,
            speed=float(rng.uniform(18, 42) * rng.choice([-1, 1])),
            size=38 + 0.30 * (y - 100),
            phase=float(rng.uniform(0, 6)),
            shirt=_colour(rng, 30, 230),
            trousers=_colour(rng, 20, 120),
            skin=_SKIN[int(rng.integers(len(_SKIN)))],
            pause_s=float(rng.choice([0.0, 0.0, rng.uniform(1, 4)])),
        )

    def draw(self, draw: ImageDraw.ImageDraw, frame: int, actors: Sequence[_Actor]) -> None:
        """Walk; during a `running` or `darting` event everybody runs straight on, or to and fro."""
        moved = max(0.0, frame / FPS - self.pause_s)
        x, cadence = self.x + self.speed * moved, 7 * moved
        for actor in actors:
            ran = min(max(frame - actor.event.start_frames, 0), len(actor)) / FPS
            if actor.label == "running":
                x += math.copysign(210, self.speed) * ran
            elif actor.label == "darting" and frame < actor.event.end_frames:
                x += 130 * _to_and_fro(ran / 1.1) * math.copysign(1, self.speed)
            if actor.label in GROUPS[0]:
                cadence += 8 * ran
        _figure(draw, self, _between_edges(x), self.y, swing=math.sin(self.phase + cadence), lean=0.0)


@dataclass(frozen=True, slots=True)
class _Harmless:
    """Something rare that is no anomaly, for as long as an anomaly takes."""

    kind: str
    start: int
    end: int
    x: float
    y: float
    speed: float
    colour: Colour

    @classmethod
    def random(cls, rng: np.random.Generator, n_frames: int) -> _Harmless:
        length = int(rng.integers(2 * FPS, 4 * FPS))
        start = int(rng.integers(0, n_frames - length + 1))
        kind = HARMLESS[int(rng.integers(len(HARMLESS)))]
        x, y, speed = float(rng.uniform(40, 280)), float(rng.uniform(160, 225)), float(rng.uniform(25, 45))
        return cls(kind, start, start + length, x, y, speed * float(rng.choice([-1, 1])), _colour(rng, 20, 235))

    def draw(self, draw: ImageDraw.ImageDraw, time_s: float) -> None:
        x, y = _between_edges(self.x + self.speed * time_s), self.y
        if self.kind == "dog":
            self._dog(draw, x, y, 6 * math.sin(9 * time_s))
        elif self.kind == "ball":
            up = 70 * abs(math.sin(4 * time_s))
            draw.ellipse((x - 10, y - up - 20, x + 10, y - up), fill=self.colour)
        elif self.kind == "balloon":
            up = 130 - 25 * time_s
            draw.line((x, y - up + 22, x, y - up + 60), fill=(60, 60, 60), width=1)
            draw.ellipse((x - 17, y - up - 22, x + 17, y - up + 22), fill=self.colour)
        elif self.kind == "birds":
            self._birds(draw, time_s)
        elif self.kind == "pram":
            draw.rectangle((x - 16, y - 34, x + 16, y - 10), fill=self.colour, outline=(40, 40, 40), width=2)
            for wheel in (x - 11, x + 11):
                draw.ellipse((wheel - 6, y - 12, wheel + 6, y), fill=(25, 25, 25))

    def _dog(self, draw: ImageDraw.ImageDraw, x: float, y: float, swing: float) -> None:
        side = math.copysign(1, self.speed)
        for leg in (-13, 13):
            draw.line((x + leg, y - 12, x + leg + swing, y), fill=self.colour, width=4)
            draw.line((x + leg, y - 12, x + leg - swing, y), fill=self.colour, width=4)
        draw.ellipse((x - 19, y - 24, x + 19, y - 9), fill=self.colour)
        draw.ellipse((x + 19 * side - 8, y - 32, x + 19 * side + 8, y - 17), fill=self.colour)

    def _birds(self, draw: ImageDraw.ImageDraw, time_s: float) -> None:
        for bird in range(9):
            x = (self.x + 37 * bird + 5 * self.speed * time_s) % WIDTH
            y = 40 + 13 * (bird % 5) + 8 * math.sin(6 * time_s + bird)
            wing = 5 * math.sin(14 * time_s + bird)
            draw.line((x - 8, y - wing, x, y, x + 8, y - wing), fill=(25, 25, 30), width=2)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A patch of leaves above the ground that gusts shake for a few seconds, in every video."""

    left: int
    top: int
    leaves: NDArray[np.float32]
    gusts: tuple[tuple[int, int], ...]

    @classmethod
    def random(cls, rng: np.random.Generator, n_frames: int) -> _Tree:
        leaves = _coarse(rng, (int(rng.integers(40, 60)), int(rng.integers(60, 130))))
        starts = rng.integers(0, n_frames, int(rng.integers(1, 4)))
        gusts = tuple((int(start), int(start + rng.integers(2 * FPS, 5 * FPS))) for start in starts)
        return cls(int(rng.integers(0, WIDTH - 130)), int(rng.integers(0, 20)), leaves, gusts)

    def shake(self, pixels: NDArray[np.float32], frame: int, rng: np.random.Generator) -> None:
        """Paint the leaves into (H, W, 3) float32 pixels; other ones in every frame of a gust."""
        windy = any(start <= frame < end for start, end in self.gusts)
        shown = _coarse(rng, self.leaves.shape) if windy else self.leaves
        h, w = shown.shape
        patch = pixels[self.top : self.top + h, self.left : self.left + w]
        patch[:] = np.array([58, 88, 50], np.float32) + shown[..., None]


@dataclass(frozen=True, slots=True)
class _Actor:
    """An event and who takes part: vehicles and plumes are drawn over the walkers, the motion classes move these."""

    label: str
    event: Event
    walker: _Walker
    x: float

    def __len__(self) -> int:
        return self.event.end_frames - self.event.start_frames

    def draw(self, draw: ImageDraw.ImageDraw, step: int, rng: np.random.Generator) -> None:
        if self.label in _DRAW:
            _DRAW[self.label](draw, self, step / FPS, rng)


def _cyclist(draw: ImageDraw.ImageDraw, actor: _Actor, time_s: float, rng: np.random.Generator) -> None:
    walker = actor.walker
    x, y, r = _between_edges(actor.x + walker.speed * 1.2 * time_s), walker.y, walker.size * 0.24
    for wheel in (x - 1.7 * r, x + 1.7 * r):
        draw.ellipse((wheel - r, y - 2 * r, wheel + r, y), outline=(15, 15, 15), width=3)
    draw.line((x - 1.7 * r, y - r, x, y - 2.6 * r, x + 1.7 * r, y - r), fill=(180, 30, 30), width=3)
    _figure(draw, walker, x, y - 1.1 * r, swing=0.5 * math.sin(walker.phase + 7 * time_s), lean=4.0)


def _cart(draw: ImageDraw.ImageDraw, actor: _Actor, time_s: float, rng: np.random.Generator) -> None:
    walker = actor.walker
    x, y, r = _between_edges(actor.x + walker.speed * 1.2 * time_s), walker.y, walker.size * 0.2
    draw.rectangle((x - 2.9 * r, y - 4.2 * r, x + 2.9 * r, y - r), fill=(225, 225, 215), outline=(40, 40, 40), width=2)
    draw.rectangle((x - 2.3 * r, y - 3.8 * r, x + 0.2 * r, y - 2.5 * r), fill=(70, 90, 110))
    for wheel in (x - 1.7 * r, x + 1.7 * r):
        draw.ellipse((wheel - r, y - 2 * r, wheel + r, y), fill=(25, 25, 25))


def _fire(draw: ImageDraw.ImageDraw, actor: _Actor, time_s: float, rng: np.random.Generator) -> None:
    _plume(draw, actor, time_s, rng, colours=((235, 90, 20), (250, 170, 40), (255, 230, 120)), flicker=6.0)


def _smoke(draw: ImageDraw.ImageDraw, actor: _Actor, time_s: float, rng: np.random.Generator) -> None:
    _plume(draw, actor, time_s, rng, colours=((95, 95, 98), (130, 130, 132), (165, 165, 166)), flicker=1.5)


def _plume(
    draw: ImageDraw.ImageDraw,
    actor: _Actor,
    time_s: float,
    rng: np.random.Generator,
    *,
    colours: Sequence[Colour],
    flicker: float,
) -> None:
    grown = min(1.0, 0.35 + 0.5 * time_s)
    for level, colour in enumerate(colours):
        for blob in range(4):
            r = grown * (22 - 5 * level) * (1 - 0.14 * blob)
            x = actor.x + 5 * math.sin(actor.walker.phase + blob + time_s) + float(rng.normal(0, flicker / 2))
            y = actor.walker.y - r - grown * 18 * blob + float(rng.normal(0, flicker))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _figure(draw: ImageDraw.ImageDraw, walker: _Walker, x: float, y: float, *, swing: float, lean: float) -> None:
    """A figure whose feet stand at (x, y): head, torso, two arms and two legs that swing in [-1, 1]."""
    h, side = walker.size, math.copysign(1.0, walker.speed)
    hip, neck = (x + lean * side * 0.3, y - 0.45 * h), (x + lean * side, y - 0.82 * h)
    for sign in (-1, 1):
        draw.line((*hip, x + sign * swing * 0.2 * h, y), fill=walker.trousers, width=max(2, round(h / 11)))
        draw.line(
            (*neck, neck[0] - sign * swing * 0.18 * h, y - 0.5 * h), fill=walker.skin, width=max(2, round(h / 16))
        )
    draw.line((*hip, *neck), fill=walker.shirt, width=max(3, round(h / 5)))
    r = 0.1 * h
    draw.ellipse((neck[0] - r, neck[1] - 2 * r, neck[0] + r, neck[1]), fill=walker.skin)


_SKIN: tuple[Colour, ...] = ((236, 200, 176), (205, 160, 128), (150, 105, 78), (95, 66, 50))
_DRAW = {
    "cyclist": _cyclist,
    "cart": _cart,
    "fire": _fire,
    "smoke": _smoke,
}


def _to_and_fro(turns: float) -> float:
    """A triangle wave: 0 at whole turns, 1 half-way between them."""
    return 1 - abs(2 * (turns % 1) - 1)


def _coarse(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(h, w) noise in blocks of five pixels, as leaves would be."""
    h, w = shape
    blocks = rng.normal(0, 26, (-(-h // 5), -(-w // 5))).astype(np.float32)
    return blocks.repeat(5, axis=0).repeat(5, axis=1)[:h, :w]


def _between_edges(x: float) -> float:
    """`x` folded back and forth between the two edges of the picture."""
    folded = (x - 10) % (2 * (WIDTH - 20))
    return 10 + (folded if folded < WIDTH - 20 else 2 * (WIDTH - 20) - folded)


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _grey(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high) + rng.integers(-18, 19, 3))
    return red, green, blue


def _write_video(path: Path, planned: Plan) -> None:
    """Write aside, then rename: a name that exists is a whole video."""
    import av

    aside = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        with av.open(str(aside), "w") as container:
            stream = container.add_stream(
                "libx264", rate=FPS, options={"crf": "23", "preset": "superfast", "threads": "1"}
            )
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for pixels in frames(planned):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _claim(folder: Path, settings: dict[str, int]) -> None:
    """Refuse a folder of another demo; stamp a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / STAMP
    if stamp.exists():
        there = json.loads(stamp.read_text(encoding="utf-8"))
        if there != settings:
            raise UsageError(f"{folder} holds a demo with {there}, asked for {settings}", hint="--out another-folder")
        return
    artifacts.write_text(stamp, json.dumps(settings) + "\n")


def _videos_csv(planned: Sequence[Plan]) -> str:
    rows = [(one.id, f"videos/{one.id}.mp4", one.part, one.label) for one in planned]
    return _csv(("video", "path", "split", "label"), rows)


def _events_csv(planned: Sequence[Plan]) -> str:
    rows = [(one.id, *asdict(event).values()) for one in planned for event in one.events]
    return _csv(("video", "start", "end", "label"), rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


_MANIFEST = f"""\
# Written by `vad demo`. The videos are drawn by a program; nothing here is real footage.
schema: 1
datasets:
  {DATASET}:
    title: Moving figures, six anomaly classes in three groups of two that look alike (synthetic)
    root: .
    classes: [{", ".join(CLASSES)}]
    phrases: {{{", ".join(f"{name}: {words}" for name, words in PHRASES.items())}}}
    splits:
      default:
        table: {{files: videos.csv}}
    truths:
      intervals: {{reader: csv, file: events.csv, unit: frames}}
    encoder: effnet:lite0+motion
    clip_len: 8
    stride: 8
    primary_metrics: [auc, ap]
"""
