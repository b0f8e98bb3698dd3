"""One connection to a camera: opened with time limits, decoded packet by packet, with times that only go forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines.errors import VadError
from pipelines.live.cameras import DEVICES, Camera
from pipelines.live.growing import GrowingFile
from pipelines.live.redact import redact
from pipelines.video.probe import REFUSED_FORMATS, Probe
from pipelines.video.pyav_reader import PyAVFrame, PyAVReader
from pipelines.video.readers import Reader
from pipelines.video.sources import DecodeError, plain

OPEN_S, READ_S = 10.0, 8.0  # a camera that says nothing for so long is lost
LONGEST_GAP_S = 5.0  # a longer step of the stream's clock, or one backwards, counts as one frame
MOST_ERRORS = 200  # packets in a row that cannot be read or decoded
# looking for its length at the end of a file that grows would wait there
FILE_OPTIONS = {"protocol_whitelist": "file", "skip_estimate_duration_from_pts": "1"}
NETWORK = "tcp,udp,tls,crypto,rtp,srtp,http,https,httpproxy,rtmp,srt"


class SourceLost(VadError):
    """A connection that broke or never came about; it may be tried again."""


class StreamReader(PyAVReader):
    """The frames of one video stream of an open container, until it ends or is lost."""

    name = "stream"

    def __init__(self, camera: Camera, *, idle_s: float, tick: Callable[[], None]) -> None:
        self._camera, self._stack = camera, ExitStack()
        try:
            container = self._open(idle_s, tick)
            stream = _video_stream(container, camera)
            rate = next((r for r in (stream.average_rate, stream.guessed_rate) if r and 0 < r <= 1000), None)
            self._first_time: float | None = None
            self._before = self._time = 0.0
            self._step = float(1 / rate) if rate else 0.04
            self._attach(stream, self._demux(container, stream))
            first = self._first_frame()
        except BaseException:
            self._stack.close()
            raise
        turned = int(first.rotation) % 360
        width, height = (first.height, first.width) if turned in (90, 270) else (first.width, first.height)
        fps = float(rate) if rate else None
        facts = Probe(fps, width, height, None, 0, turned, stream.codec_context.name, first.format.name)
        Reader.__init__(self, Path(camera.name), facts, tick=tick)

    def _next(self) -> PyAVFrame | None:
        frame = super()._next()
        if frame is None:
            return None
        assert isinstance(frame, PyAVFrame)
        return _Timed(self, frame.native, self._forward(frame.time_s))

    def _open(self, idle_s: float, tick: Callable[[], None]) -> Any:
        import av

        camera = self._camera
        try:
            if camera.is_file:
                file = GrowingFile(Path(camera.location), idle_s=idle_s, tick=tick)
                self._stack.callback(file.close)
                opened = av.open(file, options=FILE_OPTIONS)
            elif camera.location.startswith(DEVICES):
                rate = {"framerate": f"{camera.fps:g}"} if camera.fps else {}
                opened = av.open(camera.location, format="v4l2", options=rate, timeout=(OPEN_S, READ_S))
            else:
                opened = av.open(camera.location, options=_network_options(camera), timeout=(OPEN_S, READ_S))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceLost(f"cannot be opened: {redact(plain(error))}") from error
        self._stack.callback(opened.close)
        if camera.is_file and REFUSED_FORMATS & set(opened.format.name.split(",")):
            raise DecodeError(f"is a {opened.format.name} text file, not a video")
        return opened

    def _demux(self, container: Any, stream: Any) -> Iterator[Any]:
        """Packets; damage is passed over, silence and endless damage end the connection."""
        import av

        errors = 0
        while True:
            try:
                for packet in container.demux(stream):
                    errors = 0
                    yield packet
                return
            except (av.error.FFmpegError, OSError, ValueError) as error:
                errors += 1
                if errors > MOST_ERRORS or not isinstance(error, av.error.InvalidDataError | ValueError):
                    raise SourceLost(f"broke off: {redact(plain(error))}") from error

    def _first_frame(self) -> Any:
        for _ in range(MOST_ERRORS):
            packet = next(self._packets, None)
            self._decode(packet)
            if self._ready:
                return self._ready[0]
            if packet is None:
                break
        raise SourceLost("sends nothing that can be decoded")

    def _forward(self, stamp: float | None) -> float:
        """The frame's time since the first one: the stream's clock where it goes forward in small steps."""
        if self._first_time is None:
            self._first_time = self._before = stamp if stamp is not None else 0.0
            return 0.0
        step = self._step if stamp is None else stamp - self._before
        self._before = stamp if stamp is not None else self._before + self._step
        self._time += step if 0 <= step <= LONGEST_GAP_S else self._step
        return self._time


class _Timed(PyAVFrame):
    __slots__ = ("_seconds", "wall")

    def __init__(self, reader: PyAVReader, frame: Any, seconds: float) -> None:
        super().__init__(reader, frame)
        self._seconds, self.wall = seconds, time.time()

    @property
    def time_s(self) -> float | None:
        return self._seconds


def _video_stream(container: Any, camera: Camera) -> Any:
    streams = container.streams.video
    if not streams:
        raise SourceLost("has no video stream" + (" (only sound)" if container.streams.audio else ""))
    if camera.stream >= len(streams):
        raise SourceLost(f"has {len(streams)} video streams; substream {camera.stream} is not one of them")
    return streams[camera.stream]


def _network_options(camera: Camera) -> dict[str, str]:
    """Time limits, a short analysis, and no protocol that reads local files."""
    options = {
        "protocol_whitelist": NETWORK,
        "analyzeduration": "2000000",
        "fflags": "discardcorrupt",  # not nobuffer: it drops what came while the stream was analysed
        "rw_timeout": str(int(1e6 * READ_S)),
    }
    if camera.location.startswith(("rtsp", "rtsps")):
        options |= {"rtsp_transport": "tcp", "timeout": options.pop("rw_timeout")}
    return options
