"""Extraction against a plain script: a loop over frames, Pillow, one model call per clip and crop, float32.

    python benchmarks/plain.py FOLDER [--encoder i3d --crops ten] [--limit 2] [--rounds 2] [--threads N]

Both read the same videos with the same seeded random weights, in turns, and their features are compared. Ratios by the
clock say what a user gains on this machine while nothing else runs on it; processor seconds are little disturbed by
neighbours and say how much less work is done. `--threads 1` keeps the plain script's matrix products from waiting for
busy cores. The plain script reads with OpenCV where it is installed, else with PyAV.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.extract import Folder
from pipelines import extract
from pipelines.data.ids import VIDEO_SUFFIXES
from pipelines.encoders import clip
from pipelines.encoders._base import Encoder
from pipelines.encoders._checkpoint import randomise
from pipelines.extraction.plan import EncoderChoice, Sampling, choose_encoders
from pipelines.records import Video
from pipelines.store.features import FeatureStore
from pipelines.video.crops import CROPS

CLIP_LEN = 16
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Cost(NamedTuple):
    """Seconds by the clock and of the processor (this process and its ended children)."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Any, Cost]:
    wall, cpu = time.monotonic(), cpu_s()
    result = work()
    return result, Cost(time.monotonic() - wall, cpu_s() - cpu)


def cpu_s() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


# The plain script


def read_opencv(path: Path) -> Iterator[NDArray[np.uint8]]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def read_pyav(path: Path) -> Iterator[NDArray[np.uint8]]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def reader() -> Callable[[Path], Iterator[NDArray[np.uint8]]]:
    try:
        import cv2  # noqa: F401
    except ImportError:
        return read_pyav
    return read_opencv


def crop_of(frame: NDArray[np.uint8], name: str, encoder: Encoder) -> NDArray[np.uint8]:
    """One crop of one frame with Pillow: resize, cut, mirror."""
    how = encoder.preprocess
    image = Image.fromarray(frame)
    short = how.resize
    assert isinstance(short, int) and how.crop_px
    w, h = image.size
    size = (short * w // h, short) if h <= w else (short, short * h // w)
    image = image.resize(size, FILTERS[how.interpolation])
    down, right = size[1] - how.crop_px[0], size[0] - how.crop_px[1]
    place, _, mirrored = name.partition("_")
    top, left = (down // 2, right // 2) if place == "center" else (down * (place[0] == "b"), right * (place[1] == "r"))
    image = image.crop((left, top, left + how.crop_px[1], top + how.crop_px[0]))
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image)


def plain(paths: list[Path], encoder: Encoder, model: Callable[[Tensor], Tensor], crops: tuple[str, ...]) -> Any:
    """{video: (T, K, D)} by the loop that one would write first."""
    read, wanted = reader(), encoder.positions(CLIP_LEN)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (encoder.preprocess.mean, encoder.preprocess.std))
    found = {}
    for path in paths:
        rows: list[list[NDArray[np.float32]]] = []
        clip: list[NDArray[np.uint8]] = []
        for frame in read(path):
            clip.append(frame)
            if len(clip) < CLIP_LEN:
                continue
            rows.append([])
            for name in crops:
                images = [crop_of(clip[p], name, encoder) for p in wanted]
                x = torch.stack([torch.from_numpy(i.transpose(2, 0, 1).astype(np.float32)) for i in images], dim=1)
                with torch.no_grad():
                    rows[-1].append(model(((x - mean) / std)[None])[0].numpy())
            clip = []
        found[path.stem] = np.array(rows)
    return found


@contextmanager
def plain_model(name: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network as its authors call it, with the seeded random weights that extraction gets."""
    if name.startswith("clip"):
        torch.manual_seed(0)
        tower = clip.vision_tower(clip.SIZES[name.partition(":")[2]]).eval()
        yield lambda x: tower(pixel_values=x[:, :, 0]).image_embeds
        return
    (choice,) = choose_encoders([name])
    encoder: Any = choice.encoder
    network = encoder.network()
    randomise(network, seed=0)
    network.eval()
    ordinary = {"pointwise": lambda layer, x: layer(x)}
    with mock.patch.multiple("pipelines.encoders._inception3d", **ordinary):
        yield network


# Ours


def ours(
    dataset: Folder, name: str, crops: str, precision: str, paths: list[Path]
) -> tuple[dict[str, NDArray[np.float32]], Cost]:
    with tempfile.TemporaryDirectory(prefix="vad-bench-") as cache:
        request = extract.ExtractRequest(
            dataset, (Path(cache),), (name,), crops=crops, sampling=Sampling(CLIP_LEN, CLIP_LEN), precision=precision,
            weights="random", device="cpu",
        )  # type: ignore[arg-type]  # fmt: skip
        planned = extract.make_plan(request)
        choice = planned.streams[0].choice
        choice.load("cpu", request.precision)
        # the plain script's network is built before its clock starts, too
        with mock.patch.object(EncoderChoice, "load"):
            result, cost = timed(lambda: extract.run(request, planned=planned))
        result.raise_for_failures()
        store = FeatureStore(result.artifacts[0].folder)
        return {video.path.stem: store.read(video.id).astype(np.float32) for video in dataset.videos}, cost


def difference(theirs: dict[str, NDArray[np.float32]], own: dict[str, NDArray[np.float32]]) -> str:
    a, b = (np.concatenate([x[key].reshape(-1, x[key].shape[-1]) for key in sorted(theirs)]) for x in (theirs, own))
    assert a.shape == b.shape, (a.shape, b.shape)
    mean = a.mean(axis=0)
    cosine = ((a - mean) * (b - mean)).sum(1) / np.linalg.norm(a - mean, axis=1) / np.linalg.norm(b - mean, axis=1)
    raw, centred = np.linalg.norm(a - b) / np.linalg.norm(a), np.linalg.norm(a - b) / np.linalg.norm(a - mean)
    return f"features differ by {raw:.1e} of the norm, {centred:.1e} mean-subtracted, least cosine {cosine.min():.5f}"


def main() -> None:
    """Rounds of the plain script, ours in float32 and ours in bf16; ratios of each round."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = (path for path in options.folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    paths = sorted(found)[: options.limit]
    dataset = Folder("benchmark", tuple(Video(p.stem, p, "train", ()) for p in paths))
    print(
        f"{options.encoder}, {options.crops}: {len(paths)} videos; {reader().__name__}, {torch.get_num_threads()} threads"
    )
    for number in range(options.rounds):
        with plain_model(options.encoder) as model:
            (choice,) = choose_encoders([options.encoder])
            crops = CROPS[options.crops]
            model(torch.zeros(1, 3, len(choice.encoder.positions(CLIP_LEN)), 224, 224))
            theirs, slow = timed(lambda model=model, c=crops, e=choice.encoder: plain(paths, e, model, c))
        for precision in ("float32", "bf16"):
            own, fast = ours(dataset, options.encoder, options.crops, precision, paths)
            print(
                f"round {number + 1}, {precision}: plain {slow.wall:.1f} s ({slow.cpu:.1f} of the processor), ours "
                f"{fast.wall:.1f} s ({fast.cpu:.1f}): x{slow.wall / fast.wall:.2f} by the clock, "
                f"x{slow.cpu / fast.cpu:.2f} by processor time; {difference(theirs, own)}",
                flush=True,
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", choices=("i3d", "clip:vit-b-16", "clip:vit-b-32"), default="i3d")
    parser.add_argument("--crops", choices=tuple(CROPS), default="center")
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of the plain script; torch's default unless given")
    return parser


if __name__ == "__main__":
    main()
