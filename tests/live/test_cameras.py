"""What a cameras.yaml may say, and that all that is wrong with it is said at once and without passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.live.cameras import choose, choose_footage, load
from pipelines.live.redact import host_only, redact


def written(folder: Path, text: str) -> Path:
    path = folder / "cameras.yaml"
    path.write_text(text)
    return path


def test_defaults_variables_and_substreams(tmp_path, monkeypatch):
    monkeypatch.setenv("DOOR_PASSWORD", "s3cret")
    (tmp_path / "night.ts").write_bytes(b"x")
    path = written(
        tmp_path,
        """
schema: 1
defaults: {fps: 8}
cameras:
  - name: door
    source: rtsp://admin:${DOOR_PASSWORD}@10.0.0.7/main
    substream: rtsp://admin:${DOOR_PASSWORD}@10.0.0.7/sub
    masks: [[[0, 0], [0.5, 0], [0.5, 0.5]]]
  - {name: yard, source: night.ts, fps: 5, substream: 1, threshold: 0.4, low: 0.3}
""",
    )
    door, yard = load(path)
    assert (door.location, door.fps, door.stream) == ("rtsp://admin:s3cret@10.0.0.7/sub", 8, 0)
    assert door.shown == "rtsp://***@10.0.0.7/sub" and not door.is_file
    assert (yard.location, yard.stream, yard.fps, yard.is_file) == (str(tmp_path / "night.ts"), 1, 5, True)


def test_all_errors_are_named_at_once_and_no_password_among_them(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    path = written(
        tmp_path,
        """
cameras:
  - {name: door, source: 'rtsp://a:hush@host/x', fsp: 8}
  - {name: door, source: 'ftp://a:hush@host/x'}
  - {name: yard, source: 'rtsp://a:${NOT_SET}@host/x', fps: 0}
  - {name: gate, source: 'rtsp://host/x', masks: [[[0, 0], [1.2, 0], [1, 1]], [[0, 0], [1, 1]]]}
  - {source: 'rtsp://host/x', low: 0.5}
  - rtsp://a:hush@host/y
""",
    )
    with pytest.raises(UsageError) as caught:
        load(path)
    message = caught.value.message
    for words in (
        "cameras[0] 'door': unknown key 'fsp' (did you mean 'fps'?)",
        "cameras[1] 'door': source: 'ftp://***@host/x': ftp:// is not read",
        "2 cameras are called 'door'",
        "cameras[2] 'yard': source: the variable NOT_SET is not set",
        "cameras[2] 'yard': fps",
        "cameras[3] 'gate': masks.0.1: the point [1.2, 0.0] lies outside the picture",
        "cameras[3] 'gate': masks.1: ",
        "cameras[4] '': name: Field required",
        "cameras[5]: 'rtsp://***@host/y' is not a mapping",
    ):
        assert words in message, (words, message)
    assert "hush" not in message


def test_one_source_typed_by_hand(tmp_path):
    (camera,) = choose("rtsp://u:p@10.0.0.7/x", fps=5.0)
    assert (camera.name, camera.fps, camera.shown) == ("camera", 5.0, "rtsp://***@10.0.0.7/x")
    with pytest.raises(MissingArtifactError, match="there is no file or device camera: "):
        choose(str(tmp_path / "none.mp4"))
    with pytest.raises(UsageError, match=r"gopher:// is not read"):
        choose("gopher://host/1")
    with pytest.raises(UsageError, match=r"fps.*each camera's own stand in"):
        choose(str(written(tmp_path, "cameras: []")), fps=5.0)


def test_footage_belongs_to_a_camera(tmp_path):
    for name in ("b10.mp4", "b9.mp4", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
    (camera,), footage = choose_footage(str(tmp_path), camera="yard", cameras=None, fps=5.0)
    assert (camera.name, camera.fps, [p.name for p in footage["yard"]]) == ("yard", 5.0, ["b9.mp4", "b10.mp4"])
    path = written(tmp_path, f"cameras: [{{name: gate, source: 'rtsp://h/x', normal: {tmp_path}}}]")
    (camera,), footage = choose_footage(str(path), camera=None, cameras=None)
    assert len(footage["gate"]) == 2 and camera.location == "rtsp://h/x"
    with pytest.raises(UsageError, match=r"did you mean 'gate'"):
        choose_footage(str(tmp_path), camera="gat", cameras=path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:pa@ss@10.0.0.7:554/x?channel=1", "rtsp://***@10.0.0.7:554/x?channel=1"),
        ("cannot open 'http://u:p@h/x' and tcp://h:1", "cannot open 'http://***@h/x' and tcp://h:1"),
        ("http://h/x?user=a&pwd=b&channel=3&auth_token=c", "http://h/x?user=***&pwd=***&channel=3&auth_token=***"),
        ("http://h/x?password=a%20b;size=1", "http://h/x?password=***;size=1"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_secrets_of_urls_are_hidden(text, shown):
    assert redact(text) == shown


def test_a_receivers_path_is_a_secret():
    assert host_only("https://u:p@hooks.example/T0/B1/xyz?token=1") == "https://hooks.example/***"
