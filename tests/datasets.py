"""Datasets on disk for tests: a small one of one's own, and each published one in its published layout."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FPS = 12


@dataclass(frozen=True)
class Planned:
    """One video of a synthesised dataset: its part, class and events as [start, end) frames."""

    id: str
    part: str
    label: str
    frames: int
    events: tuple[tuple[int, int], ...] = ()
    group: str = ""


def plan_weak(
    *,
    train: tuple[int, int] = (4, 4),
    val: tuple[int, int] = (0, 0),
    test: tuple[int, int] = (3, 3),
    classes: Sequence[str] = ("normal", "fight"),
    n_frames: int = 48,
    group_of: int = 0,
    seed: int = 0,
) -> list[Planned]:
    """(normal, abnormal) counts per part as videos; every abnormal one has one event. `group_of` > 0 groups that many."""
    rng = random.Random(seed)
    planned = []
    for part, (normal, abnormal) in (("train", train), ("val", val), ("test", test)):
        for index in range(normal + abnormal):
            label = classes[0] if index < normal else classes[1 + (index - normal) % (len(classes) - 1)]
            frames = n_frames + 4 * rng.randrange(4)
            start = rng.randrange(0, frames // 2)
            events = () if index < normal else ((start, start + frames // 3),)
            group = f"{part}-group{index // group_of}" if group_of else ""
            planned.append(Planned(f"{part}_{label}_{index:03d}", part, label, frames, events, group))
    return planned


def make_weak_dataset(
    folder: Path,
    *,
    name: str = "toy",
    planned: Iterable[Planned] | None = None,
    classes: Sequence[str] = ("normal", "fight"),
    seconds: bool = False,
    footage: bool = False,
    clip_len: int = 8,
    frames_column: bool = True,
    **plan: Any,
) -> Path:
    """Write a manifest, videos.csv and events.csv (and tiny videos with `footage`) below `folder`; the manifest's path.

    Keywords of `plan_weak` choose the videos. The dataset's root is `folder / name`.
    """
    videos = list(planned if planned is not None else plan_weak(classes=classes, **plan))
    root = folder / name
    root.mkdir(parents=True, exist_ok=True)
    columns = ["video", "path", "label", "split", "group", "fps", *(["frames"] if frames_column else [])]
    write_csv(root / "videos.csv", columns, (
        [v.id, f"{v.id}.mp4", v.label, v.part, v.group, FPS, *([v.frames] if frames_column else [])] for v in videos
    ))  # fmt: skip
    unit, scale = ("s", 1 / FPS) if seconds else ("frame", 1)
    write_csv(root / "events.csv", ["video", f"start_{unit}", f"end_{unit}", "class"], (
        [v.id, start * scale, end * scale, v.label] for v in videos for start, end in v.events
    ))  # fmt: skip
    if footage:
        from tests.media import write_coded

        for number, video in enumerate(videos):
            write_coded(root / f"{video.id}.mp4", video.frames, fps=FPS, first=number)
    manifest = folder / "data_manifest.yaml"
    manifest.write_text(f"""\
schema: 1
datasets:
  {name}:
    title: Toy videos
    root: {name}
    classes: [{", ".join(classes)}]
    splits:
      default: {{table: videos.csv}}
    truths:
      frames: {{reader: csv, file: events.csv}}
    clip_len: {clip_len}
    stride: {clip_len}
""")
    return manifest


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """A csv with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """A text file of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def touch(path: Path) -> Path:
    """An empty file, where only its being there matters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def frame_folder(path: Path, count: int = 2) -> Path:
    """A folder with empty images 000.jpg, 001.jpg, ..."""
    for index in range(count):
        touch(path / f"{index:03d}.jpg")
    return path


def ucf_crime(root: Path) -> dict[str, tuple[int, int]]:
    """The published folders of UCF-Crime: class folders, split lists, temporal text with names in `.mp4`."""
    normal = "Normal_Videos"
    train = ["Abuse/Abuse001_x264.mp4", "Arson/Arson002_x264.mp4", f"Training_{normal}_Anomaly/{normal}001_x264.mp4"]
    test = [
        "Abuse/Abuse028_x264.mp4",
        "RoadAccidents/RoadAccidents021_x264.mp4",
        f"Testing_{normal}_Anomaly/{normal}_003_x264.mp4",
    ]
    for path in train + test:
        touch(root / path)
    write_lines(root / "Anomaly_Detection_splits" / "Anomaly_Train.txt", train)
    write_lines(root / "Anomaly_Detection_splits" / "Anomaly_Test.txt", test)
    write_lines(root / "Temporal_Anomaly_Annotation_for_Testing_Videos.txt", [
        "Abuse028_x264.mp4  Abuse  165  240  -1  -1  ",
        "RoadAccidents021_x264.mp4  RoadAccidents  10  20  30  40  ",
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  ",
    ])  # fmt: skip
    return {"Abuse028_x264": (300, 75), "RoadAccidents021_x264": (155, 20), "Normal_Videos_003_x264": (100, 0)}


def xd_violence(root: Path) -> dict[str, tuple[int, int]]:
    """XD-Violence as downloaded: folders of films, feature lists with five crops, two annotation files."""
    train = ["Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0", "v=abc__#1_label_A"]
    test = [
        "Ip.Man.2008__#01-40-37_01-41-00_label_B4-0-0",
        "v=U6MC8JJJZSY__#1_label_G-0-0",
        "Before.Sunrise.1995__#00-01_label_A",
    ]
    for name in train:
        touch(root / "1-1004" / f"{name}.mp4")
    for name in test:
        touch(root / "videos" / f"{name}.mp4")
    crops = "/media/author/i3d-features/{}/{}__{}.npy"
    write_lines(root / "rgb.list", [crops.format("RGB", name, crop) for name in train for crop in range(5)])
    write_lines(root / "rgb_test.list", [crops.format("RGBTest", name, crop) for name in test for crop in range(5)])
    write_lines(root / "annotations.txt", [f"{test[0]} 10 20 30 50", f"{test[1]}.mp4 5 15"])
    write_lines(
        root / "annotations_multiclasses.txt", [f"{test[0]} B1 10 20 B2 30 50 B1 40 45", f"{test[1]}.mp4 G 5 15"]
    )
    return {test[0]: (64, 30), test[1]: (64, 10), test[2]: (64, 0)}


def shanghaitech(root: Path) -> dict[str, tuple[int, int]]:
    """ShanghaiTech as downloaded: training avi, test frame folders, one mask per test video, lists of the weak split."""
    for name in ("01_001", "01_002", "02_003"):
        touch(root / "training" / "videos" / f"{name}.avi")
    masks = {"01_0014": [0, 0, 1, 1, 0], "01_0130": [1, 0, 0, 0], "02_0128": [0, 1, 1]}
    (root / "testing" / "test_frame_mask").mkdir(parents=True)
    for name, mask in masks.items():
        frame_folder(root / "testing" / "frames" / name, len(mask))
        np.save(root / "testing" / "test_frame_mask" / f"{name}.npy", np.array(mask, np.uint8))
    write_lines(root / "SH_Train.txt", ["01_0130", "01_001", "02_003"])
    write_lines(root / "SH_Test.txt", ["01_0014", "01_002", "02_0128"])
    return {"01_0014": (5, 2), "01_0130": (4, 1), "02_0128": (3, 2)}


def avenue(root: Path) -> dict[str, tuple[int, int]]:
    """Avenue as downloaded (pixel masks) with ano_pred's interval file."""
    import scipy.io

    lengths = [
        1439,
        1211,
        923,
        947,
        1007,
        1283,
        605,
        36,
        1175,
        841,
        472,
        1271,
        549,
        507,
        1001,
        740,
        426,
        294,
        248,
        273,
        76,
    ]
    cells = np.empty((1, 21), dtype=object)
    for index, length in enumerate(lengths):
        touch(root / "testing_videos" / f"{index + 1:02d}.avi")
        volume = np.empty((1, length if index == 0 else 12), dtype=object)  # one of real length is enough
        for frame in range(volume.size):
            volume[0, frame] = np.full((2, 3), 1 if 3 <= frame < 10 else 0, np.uint8)
        (root / "testing_label_mask").mkdir(exist_ok=True)
        scipy.io.savemat(root / "testing_label_mask" / f"{index + 1}_label.mat", {"volLabel": volume})
        cells[0, index] = np.array([[5], [12]], np.uint16)
    scipy.io.savemat(root / "avenue.mat", {"gt": cells})
    for index in range(16):
        touch(root / "training_videos" / f"{index + 1:02d}.avi")
    return {f"{index + 1:02d}": (length, 7) for index, length in enumerate(lengths)}


def ped2(root: Path) -> dict[str, tuple[int, int]]:
    """UCSD Ped2 as downloaded: Train001.. and Test001.. frame folders and the `.m` file."""
    lengths = [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
    for index in range(16):
        frame_folder(root / "Train" / f"Train{index + 1:03d}")
    for index in range(12):
        frame_folder(root / "Test" / f"Test{index + 1:03d}")
    lines = ["TestVideoFile = {};", *(f"TestVideoFile{{end+1}}.gt_frame = [{index + 1}:60];" for index in range(12))]
    write_lines(root / "Test" / "UCSDped2.m", lines)
    return {f"{index + 1:02d}": (length, 60 - index) for index, length in enumerate(lengths)}


def ubnormal(root: Path) -> dict[str, tuple[int, int]]:
    """UBnormal as downloaded: Scene folders, lists in scripts/, tracks beside the abnormal videos."""
    lists = {
        "normal_training": ["normal_scene_1_scenario_1"],
        "normal_validation": ["normal_scene_2_scenario_1"],
        "abnormal_validation": ["abnormal_scene_2_scenario_2"],
        "normal_test": ["normal_scene_3_scenario_1_fog"],
        "abnormal_test": ["abnormal_scene_3_scenario_2", "abnormal_scene_3_scenario_4"],
    }
    tracks = {
        "abnormal_scene_2_scenario_2": ["1,0,3"],
        "abnormal_scene_3_scenario_2": ["1.0,10.0,19.0"],
        "abnormal_scene_3_scenario_4": ["1,0,4", "2,3,9"],
    }
    for name, videos in lists.items():
        write_lines(root / "scripts" / f"{name}_video_names.txt", videos)
        for video in videos:
            scene = root / f"Scene{video.split('_')[2]}"
            touch(scene / f"{video}.mp4")
            if video in tracks:
                write_lines(scene / f"{video}_annotations" / f"{video}_tracks.txt", tracks[video])
    return {
        "normal_scene_3_scenario_1_fog": (40, 0),
        "abnormal_scene_3_scenario_2": (40, 10),
        "abnormal_scene_3_scenario_4": (40, 10),
    }


def surv_fight(root: Path) -> dict[str, tuple[int, int]]:
    """The fight clips: one csv with groups and splits."""
    rows = [("fi1", "fight/fi1.mp4", "fight", "a", "train", 50), ("no1", "noFight/no1.mp4", "noFight", "b", "train", 40),
            ("fi2", "fight/fi2.mp4", "fight", "c", "test", 30), ("no2", "noFight/no2.mp4", "noFight", "d", "test", 20)]  # fmt: skip
    for row in rows:
        touch(root / row[1])
    write_csv(root / "clips.csv", ["video", "path", "label", "group", "split", "frames"], rows)
    return {"fi2": (30, 30), "no2": (20, 0)}


def surv_fight_untrimmed(root: Path) -> dict[str, tuple[int, int]]:
    """The re-cut set: three text lists with 0/1 and a csv of intervals in frames."""
    for part in ("train", "val", "test"):
        names = [f"{part}_normal_000", f"{part}_abnormal_000"]
        write_lines(root / f"{part}.txt", [f"{name},{index}" for index, name in enumerate(names)])
        for name in names:
            touch(root / "videos" / f"{name}.mp4")
    rows = [(f"{part}_abnormal_000", 24, 48, "fight") for part in ("train", "val", "test")]
    write_csv(root / "annotations.csv", ["video", "start_frame", "end_frame", "class"], rows)
    return {"test_normal_000": (100, 0), "test_abnormal_000": (100, 24)}


LAYOUTS: dict[str, Callable[[Path], dict[str, tuple[int, int]]]] = {
    "ucf-crime": ucf_crime,
    "xd-violence": xd_violence,
    "shanghaitech": shanghaitech,
    "avenue": avenue,
    "ped2": ped2,
    "ubnormal": ubnormal,
    "surv-fight": surv_fight,
    "surv-fight-untrimmed": surv_fight_untrimmed,
}
"""Per dataset: writes a small copy of its published layout and returns, per test video, (frames, positive frames)."""


def synthesise(name: str, data: Path) -> dict[str, tuple[int, int]]:
    """The dataset `name` in its published layout below `data` (what VAD_DATA names)."""
    root = data / name
    root.mkdir(parents=True)
    return LAYOUTS[name](root)
