"""`varfix image` from end to end, through files and pipes."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def restore(varfix, identity):
    return lambda *arguments, **streams: varfix(
        "image", *arguments, "-m", identity, "-d", "cpu", **streams
    )


@pytest.fixture
def source(tmp_path, image):
    return image(tmp_path / "a.png")


def decoded(data):
    image = Image.open(io.BytesIO(data))
    return image.format, np.asarray(image)


def test_a_file_becomes_a_file(restore, source, tmp_path, pixels):
    result = restore(source, tmp_path / "b.png")
    assert result.exit_code == 0, result.stderr
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "net.onnx"]


def test_the_name_decides_the_format(restore, source, tmp_path):
    assert restore(source, tmp_path / "b.webp").exit_code == 0
    assert decoded((tmp_path / "b.webp").read_bytes())[0] == "WEBP"


def test_a_folder_gets_the_same_name(restore, source, tmp_path):
    (tmp_path / "there").mkdir()
    assert restore(source, tmp_path / "there").exit_code == 0
    assert restore(source, f"{tmp_path}/new/").exit_code == 0
    assert (tmp_path / "there" / "a.png").exists()
    assert (tmp_path / "new" / "a.png").exists()


def test_bytes_in_bytes_out(restore, source, pixels):
    result = restore("-", "-", stdin=source.read_bytes())
    assert result.exit_code == 0, result.stderr
    kind, samples = decoded(result.stdout_bytes)
    assert kind == "PNG"
    assert np.array_equal(samples, pixels(source))


def test_a_pipe_gets_the_requested_format(restore, source):
    result = restore(source, "-", "-f", "webp")
    assert decoded(result.stdout_bytes)[0] == "WEBP"


def test_stdin_can_go_to_a_file(restore, source, tmp_path, pixels):
    assert restore("-", tmp_path / "b.bmp", stdin=source.read_bytes()).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "b.bmp"), pixels(source))


def test_a_pipe_can_still_be_logged(restore, source, tmp_path):
    log = tmp_path / "log"
    restore("-", "-", "--log-file", log, stdin=source.read_bytes())
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (start,) = [event for event in events if event["event"] == "item.start"]
    assert (start["src"], start["dst"]) == ("stdin", "stdout")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "stdin: empty file (0 bytes)"),
        (b"hello", "stdin: not an image varfix can read (text/plain)"),
    ],
)
def test_bytes_that_are_not_an_image_produce_no_output(restore, data, text):
    result = restore("-", "-", stdin=data)
    assert result.exit_code == 1
    assert text in result.stderr
    assert result.stdout_bytes == b""


def test_a_truncated_file_is_not_restored(restore, tmp_path):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "jpeg")
    source = tmp_path / "cut.jpg"
    source.write_bytes(whole.getvalue()[:2000])
    result = restore(source, tmp_path / "b.jpg")
    assert result.exit_code == 1
    assert "cut.jpg: file ends early" in result.stderr
    assert not (tmp_path / "b.jpg").exists()


def test_an_existing_file_is_replaced_only_with_overwrite(restore, source, tmp_path):
    target = tmp_path / "b.png"
    target.write_text("mine")
    result = restore(source, target)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert target.read_text() == "mine"
    assert restore(source, target, "--overwrite").exit_code == 0


def test_transparency_is_dropped_only_with_an_option(restore, tmp_path):
    source = tmp_path / "logo.png"
    Image.new("RGBA", (16, 16), (255, 0, 0, 100)).save(source)
    result = restore(source, tmp_path / "logo.jpg")
    assert result.exit_code == 2
    assert "logo.png has transparency, JPEG cannot store it" in result.stderr
    flattened = restore(source, tmp_path / "logo.jpg", "--set", "output.flatten=white")
    assert flattened.exit_code == 0, flattened.stderr


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        ("-", ["--json"], "--json and DST - both need stdout; use --log-file"),
        ("b.jpg", ["-f", "png"], "b.jpg is named as jpeg, but --format is png"),
        ("b", [], "unknown extension"),
        ("b.xyz", [], "unknown extension"),
    ],
)
def test_contradictory_options_are_rejected(restore, source, target, options, text):
    result = restore(source, target, *options)
    assert result.exit_code == 2
    assert text in result.stderr


def test_stdin_has_no_name_for_a_folder(restore, source, tmp_path):
    result = restore("-", tmp_path, stdin=source.read_bytes())
    assert result.exit_code == 2
    assert "no name" in result.stderr


def test_a_missing_source_is_a_usage_error(restore, tmp_path):
    result = restore(tmp_path / "none.png", tmp_path / "b.png")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_a_dry_run_writes_nothing(restore, source, tmp_path):
    result = restore(source, tmp_path / "b.png", "-n")
    assert result.exit_code == 0, result.stderr
    assert "24x16" in result.stdout
    assert not (tmp_path / "b.png").exists()


def test_an_image_is_not_written_to_a_terminal(process, source):
    pty = pytest.importorskip("pty")
    outside, inside = pty.openpty()
    running = process("image", source, "-", stdout=inside)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 2
    assert b"refusing to write an image to a terminal" in err
    os.close(outside)
    os.close(inside)


def test_a_closed_stdout_is_141(process, source, identity):
    running = process("image", source, "-", "-m", identity, "-d", "cpu", bufsize=0)
    running.stdout.close()
    assert running.wait(60) == 141
    assert b"Traceback" not in running.stderr.read()
