"""Large files come whole or not at all, however often the connection breaks."""

import hashlib
import shutil

import pytest
from support.http_server import Server

from varfix.engine.errors import (
    ConfigError,
    DiskFullError,
    ExitCode,
    ModelChecksumError,
    ModelDownloadError,
)
from varfix.engine.system.download import DownloadRequest, download, mirror_url

CONTENT = bytes(range(256)) * 20_000  # 5 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    made = Server(CONTENT)
    yield made
    made.close()


@pytest.fixture
def get(server, tmp_path):
    target = tmp_path / "models" / "net.pth"

    def run(sha256="", progress=lambda done, size: None):
        digest = download(
            DownloadRequest(server.url, target, sha256, timeout=5.0, pause=0.01), progress
        )
        assert [path.name for path in target.parent.iterdir()] == [target.name]
        return digest, target.read_bytes()

    return run


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "models").iterdir())


def test_a_file_comes_whole_and_its_digest_is_returned(get):
    seen = []
    assert get(progress=lambda *now: seen.append(now)) == (DIGEST, CONTENT)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_cut_connection_is_taken_up_where_it_was_cut(get, server):
    server.cut_after = [1_000_000, 2_500_000]
    assert get() == (DIGEST, CONTENT)
    assert server.asked == [None, "bytes=1000000-", "bytes=3500000-"]


def test_a_later_call_resumes_an_earlier_download(get, server, tmp_path):
    server.cut_after = [1_500_000] + [0] * 9
    with pytest.raises(ModelDownloadError, match="1500000 of 5120000") as raised:
        get()
    assert "run the same command again to resume" in raised.value.hint
    assert raised.value.exit_code == ExitCode.MODEL
    assert left(tmp_path) == [".net.pth.part", ".net.pth.part.json"]
    server.cut_after, server.asked = [], []
    assert get() == (DIGEST, CONTENT)
    assert server.asked == ["bytes=1500000-"]


def test_another_version_of_the_file_is_fetched_from_the_start(get, server):
    server.cut_after = [1_500_000] + [0] * 9
    with pytest.raises(ModelDownloadError):
        get()
    server.content, server.etag = CONTENT[::-1], '"two"'
    server.cut_after = []
    assert get()[1] == CONTENT[::-1]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"one"'), (True, None)])
def test_without_resuming_a_download_begins_again(get, server, ranges, etag):
    server.ranges, server.etag = ranges, etag
    server.cut_after = [1_000_000]
    assert get() == (DIGEST, CONTENT)


def test_a_part_that_is_longer_than_the_file_is_dropped(get, server, tmp_path):
    server.cut_after = [1_500_000] + [0] * 9
    with pytest.raises(ModelDownloadError):
        get()
    server.cut_after = []
    with (tmp_path / "models" / ".net.pth.part").open("ab") as file:
        file.write(bytes(len(CONTENT)))
    assert get() == (DIGEST, CONTENT)


def test_the_wrong_bytes_are_removed(get, tmp_path):
    with pytest.raises(ModelChecksumError, match="download removed") as raised:
        get(sha256="0" * 64)
    assert raised.value.exit_code == ExitCode.MODEL
    assert left(tmp_path) == []


def test_a_digest_from_the_server_is_compared_with_the_bytes(get, server, tmp_path):
    server.redirect_digest = DIGEST.upper()
    assert get() == (DIGEST, CONTENT)
    (tmp_path / "models" / "net.pth").unlink()
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ModelChecksumError):
        get()


def test_a_refusal_that_passes_is_waited_for(get, server):
    server.refusals = [503, 429]
    assert get() == (DIGEST, CONTENT)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_for_good_is_reported_at_once(get, server, status):
    server.refusals = [status]
    with pytest.raises(ModelDownloadError, match=f"the server responds {status}"):
        get()
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_reported(tmp_path):
    wanted = DownloadRequest("http://127.0.0.1:9/net.pth", tmp_path / "net.pth", pause=0.001)
    with pytest.raises(ModelDownloadError, match="refused"):
        download(wanted, lambda done, size: None)


def test_a_disk_without_room_is_reported_before_the_bytes_come(get, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DiskFullError, match=r"1\.0 kB free"):
        get()


def test_a_mirror_has_the_same_paths(get, server):
    public = "https://models.example/who/net/resolve/main/net.pth"
    assert mirror_url(public, "") == public
    assert mirror_url(public, "http://near.example") == (
        "http://near.example/who/net/resolve/main/net.pth"
    )
    assert mirror_url(public, "https://near.example/copy/") == (
        "https://near.example/copy/who/net/resolve/main/net.pth"
    )
    with pytest.raises(ConfigError, match="expected http"):
        mirror_url(public, "near.example")
