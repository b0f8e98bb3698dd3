"""Ids, layers and what is left to do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import artifacts
from pipelines.encoders._base import Preprocess
from pipelines.errors import UsageError
from pipelines.extraction import plan as planning
from pipelines.extraction.plan import (
    FeaturesRecipe,
    Sampling,
    choose_encoders,
    estimate,
    features_id,
    make_recipe,
    split_encoders,
)
from pipelines.extraction.sources import stat_source
from pipelines.records import Failure
from pipelines.store.features import FeatureStore
from pipelines.video.crops import CROPS
from pipelines.video.decode import source_fingerprint
from tests.extraction.fakes import FakeDataset, FakeEncoder, choice, facts, vectors, video


def recipe(fake: FakeEncoder | None = None, /, **fields: object) -> FeaturesRecipe:
    made = make_recipe(choice(fake), sampling=Sampling(), crops=CROPS["center"])
    return made.model_copy(update=fields)


def plan(videos, layers, **fields):  # type: ignore[no-untyped-def]
    values = {"choices": [choice()], "sampling": Sampling(8, 8), "layers": layers} | fields
    return planning.plan(FakeDataset(tuple(videos)), **values)


def sources(folder: Path, names: str) -> list:  # type: ignore[type-arg]
    folder.mkdir(exist_ok=True)
    made = []
    for name in names.split():
        (folder / f"{name}.mp4").write_bytes(name.encode() * 100)
        made.append(video(folder / f"{name}.mp4"))
    return made


def store_of(stream, *, root: Path | None = None) -> FeatureStore:  # type: ignore[no-untyped-def]
    folder = stream.folder if root is None else root / stream.folder.relative_to(stream.folder.parents[2])
    return FeatureStore.create(folder, artifacts.make("features", stream.id, stream.recipe.model_dump(mode="json")))


def put(store: FeatureStore, one, n_frames: int = 16) -> None:  # type: ignore[no-untyped-def]
    stat = stat_source(one.path)
    extra = stat.facts() if stat else {}
    source = source_fingerprint(one.path) if stat else None
    crops = store.crops
    store.write(one.id, vectors(k=len(crops)), facts(n_frames, crops=crops, extra=extra, source=source))


# ---- ids -------------------------------------------------------------------------------------------------------


def test_recipe_has_exactly_what_changes_vectors() -> None:
    assert set(FeaturesRecipe.model_fields) == {
        "encoder", "revision", "weights_sha256", "options", "decoder", "clip_len", "stride", "fps", "last_clip", "crops",
        "preprocess", "precision",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder", "fake:two"),
        ("revision", 2),
        ("weights_sha256", "1" * 64),
        ("options", {"input": "diff"}),
        ("decoder", "pyav"),
        ("clip_len", 8),
        ("stride", 8),
        ("fps", 12.0),
        ("last_clip", "repeat"),
        ("crops", ("center", "center_m")),
        ("precision", "bf16"),
    ],
)
def test_id_changes_with(key: str, value: object) -> None:
    assert features_id(recipe(**{key: value})) != features_id(recipe())


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(resize=64, crop_px=(24, 24)),
        Preprocess(resize=32, crop_px=(16, 16)),
        Preprocess(resize=32, crop_px=(24, 24), interpolation="bicubic"),
        Preprocess(resize=32, crop_px=(24, 24), mean=(1.0, 0.0, 0.0)),
        Preprocess(resize=32, crop_px=(24, 24), std=(2.0, 1.0, 1.0)),
    ],
)
def test_id_changes_with_preprocessing(preprocess: Preprocess) -> None:
    assert features_id(recipe(FakeEncoder(preprocess=preprocess))) != features_id(recipe())


def test_revision_and_weights_come_from_the_encoder() -> None:
    class Newer(FakeEncoder):
        revision = 2

    made = recipe(Newer(sha256="ab" * 32))
    assert (made.revision, made.weights_sha256) == (2, "ab" * 32)


def test_id_ignores_labels_lists_roots_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = sources(tmp_path / "one", "a")
    (moved,) = sources(tmp_path / "elsewhere", "a")
    before = plan([a], [tmp_path / "cache"]).streams[0].id
    monkeypatch.setattr(artifacts, "versions", lambda: {"torch": "99", "numpy": "99"})
    relabelled = replace(moved, classes=("fighting",), split="test", segments=())
    assert plan([relabelled], [tmp_path / "other"]).streams[0].id == before


def test_device_is_no_part_of_the_recipe() -> None:
    assert "device" not in recipe().model_dump() and "cuda" not in str(recipe().model_dump())


def test_done_survives_label_edit_and_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = sources(tmp_path / "v", "a")
    put(store_of(plan([a], [tmp_path / "c"]).streams[0]), a)
    monkeypatch.setattr(artifacts, "versions", lambda: {"torch": "99"})
    assert plan([replace(a, classes=("fighting",))], [tmp_path / "c"]).todo == []


def test_whole_frame_encoder_has_the_centre_crop_only() -> None:
    encoder = FakeEncoder(preprocess=Preprocess(resize=(60, 80), crop_px=None))
    assert make_recipe(choice(encoder), sampling=Sampling(), crops=CROPS["ten"]).crops == ("center",)


def test_folder_names_encoder_crops_and_id(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    stream = plan([a], [tmp_path / "c"], crops="ten").streams[0]
    assert stream.folder == tmp_path / "c" / "features" / "fake" / f"fake-one-ten-{stream.id[:8]}"


# ---- encoders and options --------------------------------------------------------------------------------------


def test_plus_and_comma_name_the_same_encoders() -> None:
    assert split_encoders(["effnet:lite0+motion"]) == split_encoders(["effnet:lite0,motion"])
    assert split_encoders(["motion", "effnet:lite0,motion"]) == ["motion", "effnet:lite0"]


def test_option_of_one_encoder_needs_no_prefix() -> None:
    (made,) = choose_encoders(["effnet:lite0"], ["input=diff"])
    assert made.options["input"] == "diff"


def test_option_among_several_encoders_names_its_encoder() -> None:
    effnet, motion = choose_encoders(["effnet:lite0,motion"], ["effnet.input=diff"])
    assert effnet.options["input"] == "diff" and "input" not in motion.options
    with pytest.raises(UsageError, match="which of the encoders"):
        choose_encoders(["effnet:lite0,motion"], ["input=diff"])


def test_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'reduction'"):
        choose_encoders(["effnet:lite0"], ["reducton=mean"])


def test_wrong_sampling_is_refused() -> None:
    with pytest.raises(UsageError, match="stride = 0"):
        Sampling(8, 0)


# ---- what is left ----------------------------------------------------------------------------------------------


def test_done_videos_are_left_out(tmp_path: Path) -> None:
    a, b = sources(tmp_path / "v", "a b")
    put(store_of(plan([a, b], [tmp_path / "c"]).streams[0]), a)
    stream = plan([a, b], [tmp_path / "c"]).streams[0]
    assert stream.done == {"a"} and stream.todo == (b,)


def test_lower_layer_serves_and_first_layer_is_written(tmp_path: Path) -> None:
    a, b = sources(tmp_path / "v", "a b")
    own, group = tmp_path / "own", tmp_path / "group"
    put(store_of(plan([a, b], [group]).streams[0]), a)
    stream = plan([a, b], [own, group]).streams[0]
    assert stream.done == {"a"} and stream.todo == (b,) and own in stream.folder.parents


def test_ten_crops_serve_a_request_for_one(tmp_path: Path) -> None:
    a, b = sources(tmp_path / "v", "a b")
    put(store_of(plan([a, b], [tmp_path / "c"], crops="ten").streams[0]), a)
    assert plan([a, b], [tmp_path / "c"], crops="center").todo == [b]
    assert plan([a, b], [tmp_path / "c"], crops="five").todo == [b]


def test_one_crop_does_not_serve_ten_nor_another_recipe(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    put(store_of(plan([a], [tmp_path / "c"], crops="center").streams[0]), a)
    assert plan([a], [tmp_path / "c"], crops="ten").todo == [a]
    assert plan([a], [tmp_path / "c"], sampling=Sampling(8, 4)).todo == [a]


def test_listed_but_missing_video_is_named(tmp_path: Path) -> None:
    a, b = sources(tmp_path / "v", "a b")
    b.path.unlink()
    stream = plan([a, b], [tmp_path / "c"]).streams[0]
    assert stream.missing == (b,) and stream.todo == (a,)


def test_done_video_whose_file_is_gone_stays_done(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    put(store_of(plan([a], [tmp_path / "c"]).streams[0]), a)
    a.path.unlink()
    stream = plan([a], [tmp_path / "c"]).streams[0]
    assert stream.done == {"a"} and stream.missing == ()


def test_replaced_file_redoes_that_one_video(tmp_path: Path) -> None:
    a, b = sources(tmp_path / "v", "a b")
    store = store_of(plan([a, b], [tmp_path / "c"]).streams[0])
    put(store, a)
    put(store, b)
    content = bytearray(a.path.read_bytes())
    content[50] ^= 1  # of the same size
    a.path.write_bytes(content)
    os.utime(a.path, ns=(1, 1))
    stream = plan([a, b], [tmp_path / "c"]).streams[0]
    assert stream.replaced == {"a"} and stream.todo == (a,) and stream.done == {"b"}


def test_touched_or_copied_file_is_not_redone(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    put(store_of(plan([a], [tmp_path / "c"]).streams[0]), a)
    os.utime(a.path, ns=(1, 1))
    (copied,) = sources(tmp_path / "w", "a")
    assert plan([a], [tmp_path / "c"]).todo == [] and plan([copied], [tmp_path / "c"]).todo == []


def test_recorded_failure_waits_for_redo(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    store = store_of(plan([a], [tmp_path / "c"]).streams[0])
    store.record_failure(Failure("a", "no video stream", "2999-01-01T00:00:00Z"))
    assert plan([a], [tmp_path / "c"]).todo == []
    assert set(plan([a], [tmp_path / "c"]).streams[0].failed) == {"a"}
    assert plan([a], [tmp_path / "c"], redo="failed").todo == [a]


def test_failure_is_over_when_the_file_changed_since(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    store = store_of(plan([a], [tmp_path / "c"]).streams[0])
    store.record_failure(Failure("a", "no video stream", "2001-01-01T00:00:00Z"))
    assert plan([a], [tmp_path / "c"]).todo == [a]


def test_missing_file_that_appeared_is_tried(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    store = store_of(plan([a], [tmp_path / "c"]).streams[0])
    store.record_failure(Failure("a", f"{planning.MISSING}: {a.path}", "2999-01-01T00:00:00Z"))
    assert plan([a], [tmp_path / "c"]).todo == [a]


def test_redo_all_does_everything(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    put(store_of(plan([a], [tmp_path / "c"]).streams[0]), a)
    assert plan([a], [tmp_path / "c"], redo="all").todo == [a]


def test_lists_and_limits(tmp_path: Path) -> None:
    a, b, c = sources(tmp_path / "v", "a b c")
    assert plan([a, b, c], [tmp_path / "c"], limit=2).todo == [a, b]
    assert plan([a, b, c], [tmp_path / "c"], only=("c", "a")).todo == [c, a]
    with pytest.raises(UsageError, match="nope"):
        plan([a], [tmp_path / "c"], only=("nope",))


def test_one_id_for_two_files_is_refused(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    (other,) = sources(tmp_path / "w", "a")
    with pytest.raises(UsageError, match="names two files"):
        plan([a, other], [tmp_path / "c"])


def test_frame_folder_with_an_edited_image_is_redone(tmp_path: Path) -> None:
    folder = tmp_path / "v" / "01"
    folder.mkdir(parents=True)
    for index in range(5):
        (folder / f"{index:03d}.jpg").write_bytes(b"x" * (10 + index))
    one = video(folder, "01")
    put(store_of(plan([one], [tmp_path / "c"]).streams[0]), one)
    assert plan([one], [tmp_path / "c"]).todo == []
    (folder / "001.jpg").write_bytes(b"y" * 99)
    assert plan([one], [tmp_path / "c"]).todo == [one]


def test_estimate_counts_clips_crops_width_and_two_bytes(tmp_path: Path) -> None:
    (a,) = sources(tmp_path / "v", "a")
    known = replace(a, n_frames=100)
    stream = plan([known], [tmp_path / "c"], crops="ten").streams[0]
    assert estimate(stream).n_bytes == 12 * 10 * 4 * 2  # 12 whole clips of 8 frames
    assert estimate(plan([a], [tmp_path / "c"]).streams[0]).n_bytes is None
