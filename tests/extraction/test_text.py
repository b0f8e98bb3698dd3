"""Class prompts: deterministic vectors, artefacts that are found again, and clear errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError, VerificationError
from pipelines.extraction import text

CLASSES = ("normal", "running", "dashing", "fire", "smoke")


def test_seeded_vectors_are_the_same_everywhere() -> None:
    vector = text.seeded_vector("fire")
    assert vector.shape == (128,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    # RandomState's stream is frozen: sha256("fire") starts with these four bytes
    seed = int.from_bytes(bytes.fromhex("dc9f28b1"), "big")
    raw = np.random.RandomState(seed).standard_normal(128)
    assert np.allclose(vector, raw / np.linalg.norm(raw), atol=1e-6)


def test_phrases_that_share_a_word_are_close() -> None:
    road, car, other = (text.seeded_vector(t) for t in ("road accident", "car accident", "arson"))
    assert road @ car > 0.3 > abs(road @ other)
    assert np.allclose(text.seeded_vector("RoadAccident"), road)  # camel case is two words


def test_an_artefact_is_made_once_and_read_back(tmp_path: Path) -> None:
    made = text.class_text(CLASSES, encoder="seeded", cache=tmp_path)
    again = text.class_text(CLASSES, encoder="seeded", cache=tmp_path)
    assert made.folder == again.folder and made.folder is not None and made.folder.parent == tmp_path / "text"
    assert made.vectors["classes"].shape == (5, 128) and made.vectors["coarse"].shape == (2, 128)
    assert all(np.array_equal(made.vectors[k], again.vectors[k]) for k in made.vectors)
    assert not list((tmp_path / "text" / ".staging").iterdir())


def test_the_id_follows_words_template_and_encoder(tmp_path: Path) -> None:
    base = text.class_text(CLASSES, encoder="seeded").id
    assert text.class_text(CLASSES, encoder="seeded").id == base
    assert text.class_text(CLASSES[:4], encoder="seeded").id != base
    assert text.class_text(CLASSES, encoder="seeded", template="a video of {}").id != base
    assert text.class_text(CLASSES, encoder="seeded", phrases={"fire": "open fire"}).id != base


def test_a_read_only_layer_serves_its_vectors(tmp_path: Path) -> None:
    group = text.class_text(CLASSES, encoder="seeded", cache=tmp_path / "group")
    mine = text.class_text(CLASSES, encoder="seeded", cache=tmp_path / "mine", layers=[tmp_path / "group"])
    assert mine.folder == group.folder


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    made = text.class_text(CLASSES, encoder="seeded", cache=tmp_path)
    assert made.folder is not None
    (made.folder / text.FILE).write_bytes(b"not safetensors")
    with pytest.raises(VerificationError, match=r"vectors\.safetensors"):
        text.class_text(CLASSES, encoder="seeded", cache=tmp_path)


def test_wrong_requests_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'seeded'"):
        text.class_text(CLASSES, encoder="seded")
    with pytest.raises(UsageError, match="template"):
        text.class_text(CLASSES, encoder="seeded", template="no place")
    with pytest.raises(UsageError, match="61 words"):
        text.class_text(CLASSES, encoder="seeded", phrases={"fire": "word " * 61})


def test_clip_features_take_clips_own_text_tower() -> None:
    assert text.default_encoder(["clip:vit-b-16"]) == "clip:vit-b-16"
    assert text.default_encoder(["effnet:lite0", "motion"]) == "seeded"
    assert text.default_encoder(["clip:vit-b-16", "motion"]) == "seeded"


@pytest.mark.skipif(importlib.util.find_spec(text.MINILM_MODULE) is None, reason="the extra [text] is not installed")
def test_the_sentence_encoder_knows_what_is_alike() -> None:
    vectors = text.encode("minilm", ["fire", "smoke", "shoplifting"])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
