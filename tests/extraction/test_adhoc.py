"""Videos outside any dataset are described exactly as stored ones are."""

from __future__ import annotations

from pathlib import Path

from pipelines.extraction import adhoc
from pipelines.extraction.plan import Sampling, choose_encoders, make_recipe
from pipelines.spans import stored_spans
from tests.media import write_coded


def test_clips_of_a_resampled_video_speak_for_native_frames(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "v.mp4", count=20, fps=25)
    (choice,) = choose_encoders(["motion"], [])
    recipe = make_recipe(choice, sampling=Sampling(4, 4, 12.5), crops=("center",))
    (encoded,) = adhoc.encode([("v", path)], [adhoc.Wanted("motion", choice, recipe)], device="cpu", workers=1)
    assert isinstance(encoded, adhoc.Encoded)
    assert encoded.facts.extra["n_sampled"] == 10  # 20 frames at 25 a second, taken at 12.5
    # two clips of four sampled frames are eight native frames each
    assert stored_spans(encoded.facts, len(encoded.arrays["motion"])).tolist() == [[0, 8], [8, 16]]
