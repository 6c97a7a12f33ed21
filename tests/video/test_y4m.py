"""The stream of the pipes, both ways, checked against FFmpeg's own reader and writer."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
)
from varfix.engine.video.clip import Clip, Frame, Layout
from varfix.engine.video.y4m import Y4mReader, Y4mWriter

LAYOUTS = [
    Layout(17, 9, 8, 2, 2),
    Layout(17, 9, 8, 2, 2, centered=True),
    Layout(16, 8, 8, 2, 1, full=True),
    Layout(15, 7, 8, 1, 1),
    Layout(16, 8, 10, 2, 2),
    Layout(16, 8, 12, 1, 1),
    Layout(16, 8, 8, 1, 1, gray=True),
]


def noise(layout, count=3):
    rng = np.random.default_rng(4)
    top = 1 << layout.depth
    return [
        tuple(rng.integers(0, top, shape).astype(layout.dtype) for shape in layout.shapes)
        for _ in range(count)
    ]


def written(layout, frames, **facts):
    out = io.BytesIO()
    writer = Y4mWriter(out, Clip(layout, rate=Fraction(30000, 1001), **facts), layout)
    for number, planes in enumerate(frames):
        writer.add(Frame(planes, number, 1), planes)
    return out.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_again(layout):
    frames = noise(layout)
    reader = Y4mReader(io.BytesIO(written(layout, frames, aspect=Fraction(16, 11))))
    assert reader.clip.layout == layout
    assert reader.clip.aspect == Fraction(16, 11)
    assert reader.clip.rate == Fraction(30000, 1001)
    assert reader.clip.time_base == Fraction(1001, 30000)
    back = list(reader.frames())
    assert [(frame.pts, frame.duration) for frame in back] == [(0, 1), (1, 1), (2, 1)]
    for before, after in zip(frames, back, strict=True):
        for plane, restored in zip(before, after.planes, strict=True):
            np.testing.assert_array_equal(plane, restored)


@pytest.mark.parametrize("layout", LAYOUTS[:5])
def test_ffmpeg_reads_what_is_written(layout, tmp_path):
    path = tmp_path / "a.y4m"
    path.write_bytes(written(layout, noise(layout), aspect=Fraction(4, 3)))
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert stream.average_rate == Fraction(30000, 1001)
        frames = list(clip.decode(stream))
    assert len(frames) == 3
    assert frames[0].format.name.replace("yuvj", "yuv") == layout.name
    assert (frames[0].width, frames[0].height) == (layout.width, layout.height)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_what_ffmpeg_writes_is_read(film, tmp_path, pix_fmt):
    path = tmp_path / "a.y4m"
    with av.open(str(path), "w", format="yuv4mpegpipe", options={"strict": "-1"}) as out:
        stream = out.add_stream("wrapped_avframe", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 8, pix_fmt
        for number in range(2):
            frame = av.VideoFrame(16, 8, pix_fmt)
            for plane in frame.planes:
                np.frombuffer(memoryview(plane), np.uint8)[:] = number + 1
            frame.pts = number
            out.mux(stream.encode(frame))
    with path.open("rb") as file:
        reader = Y4mReader(file)
        frames = list(reader.frames())
    assert reader.clip.layout.name == pix_fmt
    assert [int(frame.planes[0][0, 0]) & 255 for frame in frames] == [1, 2]


def test_a_pipe_that_gives_little_at_a_time():
    layout = LAYOUTS[0]
    data = io.BytesIO(written(layout, noise(layout)))

    class Dribbling:
        def readline(self, most):
            return data.readline(most)

        def read(self, size):
            return data.read(min(size, 7))

    assert len(list(Y4mReader(Dribbling()).frames())) == 3


def test_a_stream_that_ends_inside_a_frame_fails():
    layout = LAYOUTS[0]
    reader = Y4mReader(io.BytesIO(written(layout, noise(layout))[:-1]))
    frames = reader.frames()
    next(frames), next(frames)
    with pytest.raises(DecodeTruncatedError, match="inside frame 2"):
        next(frames)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", DecodeEmptyError),
        (b"RIFF....AVI ", DecodeUnknownError),
        (b"YUV4MPEG2 W16\n", DecodeUnknownError),
        (b"YUV4MPEG2 Wx Hy\n", DecodeUnknownError),
        (b"YUV4MPEG2 W16 H8 F25:1 It\n", DecodeUnsupportedError),
        (b"YUV4MPEG2 W16 H8 F25:1 Ip C411\n", DecodeUnsupportedError),
        (b"YUV4MPEG2 W16 H8 F25:1 Ip C420p9\n", DecodeUnsupportedError),
        (b"YUV4MPEG2 W0 H8 F25:1 Ip C420\n", DecodeUnsupportedError),
    ],
)
def test_other_streams_are_refused(data, error):
    with pytest.raises(error):
        Y4mReader(io.BytesIO(data))


def test_interlaced_can_be_overruled():
    assert Y4mReader(io.BytesIO(b"YUV4MPEG2 W16 H8 F25:1 It\n"), interlaced="ignore").clip
