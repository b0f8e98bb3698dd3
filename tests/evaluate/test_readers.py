"""Every form of score file gives the same numbers; nothing is unpickled; what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.errors import UsageError, VerificationError
from pipelines.records import Scores
from pipelines.store import scores as files
from pipelines.store.scores import Layout, Rows, place
from pipelines.store.segments import read_segments
from tests.evaluate.world import AUC, SCORES, World

CSV = "video,frame,score\n" + "".join(f"{v},{i},{s}\n" for v, rows in SCORES.items() for i, s in enumerate(rows))


def write_form(world: World, form: str) -> tuple[Path, dict[str, Path]]:
    flat = np.concatenate([SCORES["b"], SCORES["a"]])
    match form:
        case "npz":
            return world.npz(SCORES), {}
        case "csv":
            return world.write("mine.csv", CSV), {}
        case "shuffled csv":
            lines = CSV.splitlines()
            order = np.random.default_rng(0).permutation(len(lines) - 1)
            return world.write("mine.csv", "\n".join([lines[0], *(lines[1 + i] for i in order)])), {}
        case "spans csv":
            body = [f"{v},{i},{i + 1},{s}" for v, rows in SCORES.items() for i, s in enumerate(rows)]
            return world.write("mine.csv", "\n".join(["video,start_frame,end_frame,score", *body])), {}
        case "hdf5":
            with h5py.File(world.root / "mine.h5", "w") as handle:
                for video, rows in SCORES.items():
                    handle[video] = rows
            return world.root / "mine.h5", {}
        case "folder":
            for video, rows in SCORES.items():
                (world.root / "folder").mkdir(exist_ok=True)
                np.save(world.root / "folder" / f"{video}.npy", np.array(rows)[:, None])
            return world.root / "folder", {}
        case _:
            np.save(world.root / "flat.npy", flat)
            order = world.write("order.txt", "b\na\n")
            text = "4\n6\n" if form == "flat, bare lengths" else "video,frames\na,6\nb,4\n"
            return world.root / "flat.npy", {"order": order, "lengths": world.write("lengths.csv", text)}


FORMS = ["npz", "csv", "shuffled csv", "spans csv", "hdf5", "folder", "flat", "flat, bare lengths"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(tiny: World, form: str):
    path, options = write_form(tiny, form)
    result = tiny.evaluate(path, **options)
    assert result.evals[0].metrics["metrics"]["auc"]["value"] == pytest.approx(AUC)


def test_class_columns_of_a_table_are_put_into_the_datasets_order(tiny: World):
    text = "video,frame,score,fight,normal,fire\na,0,.1,.1,.7,.2\na,1,.2,.3,.5,.2\n"
    rows = files.read(tiny.write("mine.csv", text), classes=("normal", "fire", "fight")).rows["a"]
    assert rows.classes is not None
    np.testing.assert_allclose(rows.classes[0], [[0.7, 0.2, 0.1], [0.5, 0.2, 0.3]])
    with pytest.raises(VerificationError, match=r"'fires'.*did you mean 'fire'"):
        files.read(tiny.write("typo.csv", text.replace("fire", "fires")), classes=("normal", "fire", "fight"))


def test_ids_of_a_table_stay_text(tiny: World):
    rows = files.read(tiny.write("mine.csv", "video,frame,score\n007,0,.5\nNA,0,.25\n")).rows
    assert set(rows) == {"007", "NA"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,score\na,1\n", "frame"),
        ("video,frame,score\na,0,.1\na,2,.1\n", "after frame 0 comes frame 2"),
        ("video,frame,score\na,0,.1\na,0,.1\n", "after frame 0 comes frame 0"),
        ("video,frame,score\na,0,high\n", "row 2: 'high' is no number"),
    ],
)
def test_wrong_tables_are_named(tiny: World, text: str, said: str):
    with pytest.raises(VerificationError, match=said):
        files.read(tiny.write("bad.csv", text))


def test_nothing_is_unpickled(tiny: World):
    np.savez(tiny.root / "evil.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(VerificationError, match="cannot read"):
        files.read(tiny.root / "evil.npz")
    (tiny.root / "evil").mkdir()
    np.save(tiny.root / "evil" / "a.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(VerificationError, match="cannot read"):
        files.read(tiny.root / "evil")


def test_a_flat_array_needs_order_and_lengths(tiny: World):
    np.save(tiny.root / "flat.npy", np.zeros(10))
    with pytest.raises(UsageError, match="which rows"):
        files.read(tiny.root / "flat.npy")
    with pytest.raises(VerificationError, match=r"10 rows.*adds up to 9"):
        order, lengths = tiny.write("o.txt", "a\nb\n"), tiny.write("l.txt", "5\n4\n")
        files.read(tiny.root / "flat.npy", order=order, lengths=lengths)
    with pytest.raises(UsageError, match="belong to a flat"):
        files.read(tiny.npz(SCORES), order=tiny.write("o.txt", "a\nb\n"))


def test_other_mistakes_of_arrays_are_named(tiny: World):
    with pytest.raises(VerificationError, match="arr_0"):
        np.savez(tiny.root / "list.npz", np.zeros(4))
        files.read(tiny.root / "list.npz")
    with pytest.raises(VerificationError, match="holds <U1, not numbers"):
        files.read(tiny.npz({"a": ["x"]}))
    with pytest.raises(VerificationError, match=r"'a\|classes' has no 'a'"):
        files.read(tiny.npz({"a|classes": np.zeros((3, 3))}))
    with pytest.raises(VerificationError, match="the scores have 4 rows"):
        files.read(tiny.npz({"a": np.zeros(4), "a|classes": np.zeros((3, 3))}))
    with pytest.raises(UsageError, match=r"form of mine\.txt"):
        files.read(tiny.write("mine.txt", "1"))


def test_our_own_file_is_lossless(tmp_path: Path):
    rng = np.random.default_rng(0)
    spans = np.array([[0, 8], [8, 16], [16, 20]])
    first = Scores(
        "a|b/c", rng.random((2, 3)).astype("f4"), spans, 21, 8, ("center", "tl"), rng.random((2, 3, 4)).astype("f4"),
        levels=(rng.random((2, 2)).astype("f4"),), level_spans=(np.array([[0, 16], [16, 21]]),),
    )  # fmt: skip
    second = Scores("one", rng.random((1, 1)).astype("f4"), spans[:1], 15, 16)
    files.write(tmp_path / "scores.npz", [second, first])
    rows = files.read(tmp_path / "scores.npz").rows
    for record in (first, second):
        again = place(record.video_id, rows[record.video_id], record.n_frames, Layout())
        assert (again.video_id, again.n_frames, again.stride, again.crops) == (
            record.video_id, record.n_frames, record.stride, record.crops,
        )  # fmt: skip
        np.testing.assert_array_equal(again.clips, record.clips)
        np.testing.assert_array_equal(again.spans, record.spans)
        for ours, theirs in zip(again.levels + again.level_spans, record.levels + record.level_spans, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert rows["one"].classes is None


def test_the_same_scores_give_the_same_bytes(tmp_path: Path):
    record = Scores("a", np.ones((1, 2), "f4"), np.array([[0, 4], [4, 8]]), 8, 4)
    files.write(tmp_path / "one.npz", [record])
    files.write(tmp_path / "two.npz", [record])
    assert files.sha256(tmp_path / "one.npz") == files.sha256(tmp_path / "two.npz")


def test_clip_rows_are_cut_at_the_videos_end():
    scores = place("a", Rows(np.zeros((1, 3))), 35, Layout("clips", 16))
    assert scores.spans.tolist() == [[0, 16], [16, 32], [32, 35]]
    short = place("a", Rows(np.zeros((1, 2))), 35, Layout("clips", 16))
    assert short.spans.tolist() == [[0, 16], [16, 32]]
    with pytest.raises(VerificationError, match=r"'a'.*end at frame 64, the video has 35"):
        place("a", Rows(np.zeros((1, 4))), 35, Layout("clips", 16))


def test_segments_are_read_from_csv_and_activitynet(tmp_path: Path):
    table, document = tmp_path / "s.csv", tmp_path / "s.json"
    table.write_text("video,label,start,end,score\nv,fire,10,30,0.5\n")
    document.write_text('{"results": {"v": [{"label": "fire", "segment": [1.0, 3.0], "score": 0.5}]}}')
    for rows in (
        read_segments(table, ["u", "v"], ["normal", "fire"]),
        read_segments(document, ["u", "v"], ["normal", "fire"], [10.0, 10.0]),
    ):
        assert [x.tolist() for x in (rows.video, rows.label, rows.start, rows.end, rows.score)] == [
            [1],
            [1],
            [10.0],
            [30.0],
            [0.5],
        ]
    with pytest.raises(VerificationError, match="frame rate of 'v'"):
        read_segments(document, ["u", "v"], ["normal", "fire"])
    with pytest.raises(VerificationError, match="line 2: no evaluated video 'v'"):
        read_segments(table, ["u"], ["normal", "fire"])
    with pytest.raises(VerificationError, match="'fire' is no class"):
        read_segments(table, ["v"], ["normal", "fight"])


def test_a_difference_of_a_whole_clip_is_an_error_and_less_is_a_tail():
    clips = Rows(np.zeros((1, 2)))
    assert place("a", clips, 47, Layout("clips", 16)).spans[-1].tolist() == [16, 32]
    with pytest.raises(VerificationError, match="end at frame 32, the video has 48"):
        place("a", clips, 48, Layout("clips", 16))


def test_scores_repeated_past_the_end_are_cut_there_when_it_is_said():
    rows = Rows(np.arange(48, dtype=float)[None])
    scores = place("a", rows, 35, Layout("frames", 16))
    assert (scores.clips.shape, scores.spans[-1].tolist()) == ((1, 35), [34, 35])
    with pytest.raises(VerificationError, match="48 frame scores end at frame 48, the video has 35"):
        place("a", rows, 35, Layout("frames"))
