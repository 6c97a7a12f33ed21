"""Measures how many tiles of a locked camera are equal in successive frames.

A tile that is equal to that of the frame before could be restored only once. The clip is an image
with an object that moves across it, with noise of a sensor, encoded by x264.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (1280, 720)
FRAMES = 50
# Standard deviation of the noise in 8-bit codes, and x264's quality.
CLIPS = ((0, 23), (3, 23), (3, 30), (10, 28))
# Height and width of tiles: the first are those of the model at 1280x720.
TILES = ((360, 640), (180, 320), (90, 160))


def encode(image, path, noise, crf):
    """Write the clip."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "fast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            pixels = image.copy()
            pixels[300:400, 20 * number : 20 * number + 100] = (200, 60, 40)
            pixels += rng.normal(0, noise, pixels.shape)
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        out.mux(stream.encode(None))


def luma(path):
    """The frames as they are decoded."""
    with av.open(str(path)) as clip:
        return [frame.to_ndarray(format="gray").astype(np.int16) for frame in clip.decode(video=0)]


def equal_share(frames, tile, most):
    """The share of tiles that differ from the frame before by `most` codes at most."""
    height, width = tile
    found = []
    for before, after in itertools.pairwise(frames):
        change = np.abs(after - before)
        rows, columns = SIZE[1] // height, SIZE[0] // width
        blocks = change.reshape(rows, height, columns, width).max((1, 3))
        found.append((blocks <= most).mean())
    return float(np.mean(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    image = Image.open(parser.parse_args().image).convert("RGB").resize(SIZE)
    pixels = np.asarray(image).astype(np.float32)
    sys.stdout.write("noise  crf  tile      equal  within 1 code\n")
    for noise, crf in CLIPS:
        with tempfile.TemporaryDirectory() as folder:
            encode(pixels, Path(folder) / "clip.mkv", noise, crf)
            frames = luma(Path(folder) / "clip.mkv")
        for tile in TILES:
            equal, near = (equal_share(frames, tile, most) for most in (0, 1))
            sys.stdout.write(
                f"{noise:5} {crf:4}  {tile[1]}x{tile[0]:<5} {equal:6.1%} {near:8.1%}" + "\n"
            )


if __name__ == "__main__":
    main()
