"""The report's page without a browser: what it carries is exact, what it says is true, names stay names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import evaluate, train
from pipelines.data.manifest import load
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.metrics._base import MetricInput
from pipelines.records import Event, Scores
from pipelines.report import html, timelines
from pipelines.report.confusion import SHOWN, confusion
from pipelines.report.headline import headlines
from pipelines.report.html import embeddable
from pipelines.scoring.compare import prepared_from
from pipelines.scoring.expand import expand
from pipelines.scoring.protocol import Protocol
from pipelines.store import scores as files
from tests import toy
from tests.report import pages
from tests.report.pages import Page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return pages.make(tmp_path_factory.mktemp("page") / "world")


class Parser(HTMLParser):
    """Elements with their attributes in order, and the text of the data script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def text_of(page: Page) -> str:
    return page.report.path.read_text(encoding="utf-8")


def data_of(text: str) -> dict[str, Any]:
    return json.loads(Parser(text).scripts[0])


def unpacked(video: dict[str, Any]) -> np.ndarray:
    """The frame scores that a video's object stands for."""
    values = np.frombuffer(base64.b64decode(video["values"]), "<f8" if video.get("wide") else "<f4").astype(np.float64)
    if "edges" not in video:
        return values
    return np.repeat(values, np.diff(np.frombuffer(base64.b64decode(video["edges"]), "<u4").astype(np.int64)))


@pytest.mark.parametrize(
    ("scores", "wide", "steps"),
    [
        (np.repeat(np.float32([0.1, 0.7, 0.7, 0.2]).astype(np.float64), 16), False, 3),
        (np.array([0.1, 0.1, 0.3]), True, 2),
        (np.random.default_rng(0).random(500), True, 500),
        (np.array([0.25]), False, 1),
    ],
)
def test_scores_are_carried_without_loss(scores: np.ndarray, wide: bool, steps: int):
    packed = timelines.encode_steps(scores)
    assert np.array_equal(unpacked(packed), scores)
    assert packed.get("wide", False) is wide
    assert len(base64.b64decode(packed["values"])) == steps * (8 if wide else 4)


def test_the_page_carries_what_was_measured(page: Page):
    found = {video["id"]: video for video in data_of(text_of(page))["videos"]}
    written = files.read(page.evaluated.evals[0].folder / "scores.npz").rows
    assert set(found) == set(pages.TRUTH) == set(written)
    for video, truth in pages.TRUTH.items():
        expected = np.repeat(written[video].values[0].astype(np.float64), pages.CLIP)
        assert np.array_equal(unpacked(found[video]), expected)
        assert found[video]["events"] == [list(event) for event in truth]
        assert found[video]["positives"] == [list(event[:2]) for event in truth]


def test_class_curves_keep_every_peak_whatever_their_room():
    scores = np.zeros((10_000, 3), np.float32)
    scores[:, 1] = np.linspace(0, 0.2, 10_000)
    scores[777, 2] = 0.9
    curves = timelines.class_curves(scores, ("normal", "a", "b"), ("b",), room=50)
    steps = len(base64.b64decode(curves["edges"])) // 4 - 1
    values = np.frombuffer(base64.b64decode(curves["values"]), np.uint8).reshape(2, steps)
    assert steps <= 50
    assert curves["names"] == ["a", "b"]
    assert values[1].max() == round(0.9 * 255)
    assert values[0].max() == round(0.2 * 255)


def test_of_many_classes_the_true_and_the_highest_have_curves():
    names = tuple(f"c{i}" for i in range(100))
    scores = np.zeros((5, 100), np.float32)
    scores[2, 60:90] = 0.5
    curves = timelines.class_curves(scores, names, ("c3",), room=50)
    assert len(curves["names"]) == timelines.SHOWN_CLASSES
    assert "c3" in curves["names"] and "c60" in curves["names"] and "c0" not in curves["names"]


def test_no_name_becomes_markup(page: Page):
    parsed = Parser(text_of(page))
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert [s.get("type") for s in scripts] == ["application/json", None]
    assert "img" not in {tag for tag, _ in parsed.elements} and "i" not in {tag for tag, _ in parsed.elements}
    data = json.loads(parsed.scripts[0])
    assert {video["id"] for video in data["videos"]} == set(pages.TRUTH)
    assert pages.EVIL_CLASS in data["classes"]
    assert "pwned" not in parsed.scripts[1]


def test_the_policy_lets_only_the_pages_own_script_and_style_in(page: Page):
    parsed = Parser(text_of(page))
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1].encode()).digest()).decode()
    assert policy and f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_data_cannot_end_its_element():
    value = {"</script>": "<!--<script>", "line": "\u2028 & \u2029", "lone": "\ud800"}
    text = embeddable(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert text.isascii()
    assert json.loads(text) == value
    with pytest.raises(ValueError):
        embeddable([float("nan")])


def test_nothing_is_fetched_and_videos_are_relative(page: Page):
    text = text_of(page)
    links = [a[k] for _, a in Parser(text).elements for k in ("src", "href", "srcset", "action") if k in a]
    assert links == ["#videos"]
    assert "@import" not in text and "url(" not in text
    hrefs = {video["id"]: video["footage"].get("href") for video in data_of(text)["videos"]}
    assert hrefs["two fights"] == "../v%201%23.mp4"
    assert hrefs["gone"] is None


def test_a_moved_video_is_named_and_the_page_is_made(page: Page):
    assert page.report.moved == ("gone",)
    text = text_of(page)
    assert "1 of 6 videos are not where the dataset says they are" in text
    assert str(page.root / "v 5#.mp4") in text


def test_the_headline_has_ours_interval_floor_protocol_and_selection(page: Page):
    text = text_of(page)
    auc = page.evaluated.evals[0].metrics["metrics"]["auc"]
    row = re.search(r'<th scope="row">auc</th>(.*?)</tr>', text, re.DOTALL)
    assert row
    assert f"{100 * auc['value']:.2f}" in row[1]
    assert f"{100 * auc['ci'][0]:.2f} – {100 * auc['ci'][1]:.2f}" in row[1]
    assert f"{100 * max(auc['floor'][k] for k in ('constant', 'random', 'centre', 'length')):.2f}" in row[1]
    assert "auc_micro" in row[1]
    assert "smooth none" in text
    assert '<td class="word" data-label="Selection">unknown</td>' in row[1]


def test_papers_stand_beside_ours_with_how_they_were_reached():
    summary = {"metrics": {"map-iou": {"vadclip": {"avg": 0.1, "0.1": 0.1}}, "auc": {"value": 0.8}}}
    rows, _ = headlines(summary, "fine-vad", "ucf-crime")
    found = {row.name: row for row in rows}
    assert found["map-iou · vadclip"].papers[0].value == pytest.approx(0.1499)
    assert "clip:vit-b-16" in found["map-iou · vadclip"].papers[0].words
    assert headlines(summary, "fine-vad", "my-cameras")[0][0].papers == ()


def test_confusion_counts_frames_by_true_and_by_highest_class():
    scores = np.zeros((6, 3), np.float32)
    scores[[0, 1, 2, 3, 4, 5], [0, 1, 1, 2, 2, 0]] = 1
    events = (Event(1, 4, "a"), Event(3, 6, "b"))  # frame 3 is claimed by both
    data = MetricInput(
        ("v",), (np.zeros(6),), (np.zeros(6, bool),), np.array([True]), (events,), ("n", "a", "b"), (scores,)
    )
    found = confusion(data)
    assert found is not None and found.ambiguous == 1
    assert found.counts.tolist() == [[1, 0, 0], [0, 2, 0], [1, 0, 1]]
    assert confusion(replace(data, class_scores=None)) is None


def test_a_huge_number_of_classes_stays_readable():
    names = tuple(f"c{i}" for i in range(300))
    scores = np.eye(300, dtype=np.float32)
    events = tuple(Event(i, i + 1, f"c{i}") for i in range(1, 300))
    data = MetricInput(("v",), (np.zeros(300),), (np.ones(300, bool),), np.array([True]), (events,), names, (scores,))
    found = confusion(data)
    assert found is not None
    assert len(found.names) == SHOWN + 1 and found.names[0] == "c0" and found.names[-1] == "280 others"
    assert found.counts.sum() == 300 and np.trace(found.counts) == 300


def test_scores_out_of_range_and_constant_scores_have_an_axis(tmp_path: Path):
    world = pages.make(tmp_path / "w", normalise="minmax")
    assert data_of(text_of(world))["limits"] == [0.0, 1.0]


def test_a_threshold_per_camera_is_kept(page: Page):
    shown = html.plan(pages.request(page.root, run=str(page.evaluated.evals[0].folder))).shown
    ready = prepared_from(shown, load(page.root / "data_manifest.yaml"))[1]
    own = replace(
        ready, options=replace(ready.options, thresholds_by_video=np.array([0.1, 0.2, 0.3, 0.4, 0.5, np.inf]))
    )
    found = timelines.timelines(own, {}, derived=False)
    assert [video.get("theta") for video in found] == [0.1, 0.2, 0.3, 0.4, 0.5, None]


def test_what_is_missing_says_what_to_type(page: Page, tmp_path: Path):
    with pytest.raises(MissingArtifactError) as error:
        html.run(pages.request(page.root))
    assert "vad train" in error.value.hint
    with pytest.raises(UsageError, match="is a folder"):
        page.again(out=tmp_path)


def test_an_embedded_preview_lasts_as_long_as_its_video(page: Page, tmp_path: Path):
    import av

    made = page.again(out=tmp_path / "e.html", videos="embed")
    assert set(made.no_preview) == set()
    found = re.findall(r'<script type="text/plain" id="preview-(\d)">([^<]+)</script>', made.path.read_text())
    assert [index for index, _ in found] == ["0", "1", "2", "3", "4"]
    (tmp_path / "p.mp4").write_bytes(base64.b64decode(found[0][1]))
    with av.open(str(tmp_path / "p.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(pages.FRAMES / pages.FPS, abs=0.2)
        assert stream.width == 192 and stream.codec_context.name == "h264"


def test_a_mean_over_crops_which_32_bits_do_not_hold_is_carried_in_64():
    record = Scores("v", np.float32([[0.1, 0.4], [0.2, 0.8]]), np.array([[0, 4], [4, 8]]), 8, 4, ("a", "b"))
    frames = expand(record).scores
    packed = timelines.encode_steps(frames)
    assert packed["wide"] and np.array_equal(unpacked(packed), frames)


def test_a_sweep_shows_its_first_setting_with_mean_and_deviation_over_its_seeds(tmp_path: Path):
    made = toy.make(tmp_path, test=6)
    places = {"manifest": made.manifest, "cache_dir": str(made.cache), "runs_dir": made.runs}
    train.run(
        train.TrainRequest(
            method="mil-rank", dataset="toy", sets=("top=0.1,0.5", "steps=3"), seeds=2, manifest=made.manifest,
            cache_dir=made.cache, runs_dir=made.runs,
        )
    )  # fmt: skip
    found = evaluate.run(
        evaluate.EvalRequest(metrics=("auc",), protocol=Protocol(rounds=10), plots="leave out", **places)
    )
    done = html.run(html.ReportRequest(out=tmp_path / "r.html", **places))
    text = done.path.read_text()
    assert done.members == 2 and "top=0.1" in str(done.evaluation) and done.evaluation.match("*/seed-0/evals/*")
    assert "<h1>mil-rank top=0.1 " in text
    summary = found.summary["settings"]["top=0.1"]["metrics"]["auc"]
    assert f"{100 * summary['value']:.2f}" in text and f"± {100 * summary['sd']:.2f}" in text
    assert "below are of seed 0" in text
    assert "2 evaluations of the same command with another setting" in text
    one = html.run(html.ReportRequest(run=str(done.evaluation.parent.parent), out=tmp_path / "o.html", **places))
    assert one.members == 1 and "below are of seed" not in one.path.read_text()


def test_a_run_without_an_evaluation_says_how_to_get_one(tmp_path: Path):
    made = toy.make(tmp_path, test=4)
    train.run(
        train.TrainRequest(
            method="mil-rank", dataset="toy", sets=("steps=2",), manifest=made.manifest, cache_dir=made.cache,
            runs_dir=made.runs,
        )
    )  # fmt: skip
    places = {"manifest": made.manifest, "cache_dir": str(made.cache), "runs_dir": made.runs}
    with pytest.raises(MissingArtifactError, match="no evaluation") as error:
        html.run(html.ReportRequest(**places))
    assert error.value.exit_code == 4 and error.value.hint.startswith("vad eval --run ")
    done = evaluate.run(
        evaluate.EvalRequest(metrics=("auc",), protocol=Protocol(rounds=0), plots="leave out", **places)
    )
    (done.evals[0].folder / "scores.npz").unlink()
    with pytest.raises(MissingArtifactError, match=r"no scores\.npz") as error:
        html.run(html.ReportRequest(**places))
    assert error.value.hint.startswith("vad eval --new --run ")
