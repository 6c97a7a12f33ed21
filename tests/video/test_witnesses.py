"""Other programs read in the results what the sources say: mediainfo, mkvinfo."""

import json
import subprocess
from shutil import which

import pytest

from varfix.engine.errors import ExitCode

COMPARED = {
    "General": ("AudioCount", "TextCount"),
    "Video": ("Width", "Height", "PixelAspectRatio", "FrameCount", "FrameRate", "Rotation"),
    "Audio": ("Format", "Channels", "SamplingRate", "Video_Delay"),
}


@pytest.fixture
def mediainfo():
    """What mediainfo says of a file, by kind of track."""
    if which("mediainfo") is None:
        pytest.skip("the program mediainfo is not installed")

    def run(path):
        words = ["mediainfo", "--Output=JSON", str(path)]
        found = subprocess.run(words, check=True, capture_output=True)
        tracks = json.loads(found.stdout)["media"]["track"]
        return {
            track["@type"]: {key: track.get(key) for key in COMPARED[track["@type"]]}
            for track in tracks
            if track["@type"] in COMPARED
        }

    return run


@pytest.mark.parametrize("name", ["pal_ffv1_pcm.mkv", "cctv_alaw.mkv", "djmd.mp4", "mebx_like.mov"])
def test_mediainfo_reads_the_same(shared, restore, mediainfo, tmp_path, name):
    source = shared(name)
    made = restore(source, tmp_path / f"out{source.suffix}", codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    assert mediainfo(made.path) == mediainfo(source)


def test_mkvinfo_reads_the_size_to_show(shared, restore):
    if which("mkvinfo") is None:
        pytest.skip("the program mkvinfo is not installed")
    made = restore(shared("pal_ffv1_pcm.mkv"), codec="auto")
    text = subprocess.run(["mkvinfo", made.path], check=True, capture_output=True, text=True).stdout
    for line in ("Pixel width: 720", "Pixel height: 576", "Display width: 768", "Codec ID: V_FFV1"):
        assert line in text
    assert "Codec ID: A_PCM/INT/LIT" in text
