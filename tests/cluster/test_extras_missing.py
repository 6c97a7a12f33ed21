"""Without the extras, commands print what to install; with them, other commands import nothing."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

RUN = """
import sys
for name in {missing}:
    sys.modules[name] = None
from varfix.cli.main import run
sys.argv[1:] = {words}
try:
    run()
finally:
    print("loaded:", *{{name.partition(".")[0] for name, module in sys.modules.items() if module}})
"""
CLOUD = {"ray", "grpc", "fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp"}


def varfix(*words, missing=()):
    code = RUN.format(missing=list(missing), words=list(map(str, words)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((9, 9, 3), 80, np.uint8)).save(tmp_path / "in" / "a.png")
    return tmp_path


@pytest.mark.parametrize("command", ["dir", "video"])
@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001"])
def test_a_cluster_without_ray(folder, command, address):
    ends = ["in", "out"] if command == "dir" else ["in/a.mp4", "b.mp4"]
    (folder / "in" / "a.mp4").write_bytes(b"x")
    places = [folder / end for end in ends]
    done = varfix(command, *places, "--cluster", address, missing=["ray"])
    assert done.returncode == 2
    assert "--cluster needs ray, which is not installed" in done.stderr
    assert 'run: pip install "varfix[ray]"' in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize("missing", [["s3fs"], ["s3fs", "fsspec"]], ids="-".join)
@pytest.mark.parametrize("end", ["source", "target"])
def test_a_bucket_without_s3fs(folder, missing, end):
    places = ["s3://bucket/x", folder / "out"] if end == "source" else [folder / "in", "s3://b/x"]
    done = varfix("dir", *places, missing=missing)
    assert done.returncode == 2
    assert f"{places[end == 'target']}: s3fs is not installed" in done.stderr
    assert 'pip install "varfix[s3]"' in done.stderr


def test_another_store_without_its_package(folder):
    done = varfix("dir", "gs://bucket/x", folder / "out", missing=["gcsfs"])
    assert done.returncode == 2
    assert "fsspec's package for gs is not installed" in done.stderr
    assert 'pip install "fsspec[gs]"' in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["dir", "--help"], ["video", "--help"]])
def test_help_imports_no_cluster_or_storage_libraries(words):
    done = varfix(*words)
    assert done.returncode == 0, done.stderr
    assert not CLOUD & set(done.stdout.rpartition("loaded:")[2].split())


def test_a_run_between_folders_imports_no_cluster_or_storage_libraries(folder, halving):
    done = varfix("dir", folder / "in", folder / "out", "-m", halving, "-d", "cpu")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "onnxruntime" in loaded
    assert not CLOUD & loaded
