"""`varfix dir` from end to end, with a model that returns its input."""

import json
import os
import signal
import sys

import numpy as np
import pytest

# Images of a run that is to be interrupted: enough to be still at it.
MANY = 120


@pytest.fixture
def tree(tmp_path, image):
    """A folder with images, a broken one, and files that are none."""
    for number, name in enumerate(("a.png", "sub/b.png", "sub/deep/c.bmp")):
        image(tmp_path / "in" / name, number)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / ".hidden.png").write_text("not even looked at")
    return tmp_path / "in", tmp_path / "out"


@pytest.fixture
def restore(varfix, identity, tree):
    """Run `varfix dir in out` on the CPU."""
    return lambda *options, **streams: varfix(
        "dir", *tree, "-m", identity, "-d", "cpu", *options, **streams
    )


def names(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    found = (path.relative_to(folder).as_posix() for path in files)
    return sorted(name for name in found if not name.startswith(".varfix/"))


def events(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_tree_of_results_is_that_of_the_sources(restore, tree, pixels):
    result = restore()
    assert result.exit_code == 0, result.stderr
    source, target = tree
    assert names(target) == ["a.png", "sub/b.png", "sub/deep/c.bmp"]
    for name in names(target):
        assert np.array_equal(pixels(target / name), pixels(source / name))
    assert result.stdout == ""


def test_stderr_has_model_device_and_summary(restore):
    text = restore().stderr
    assert "preset auto · net · cpu (CPUExecutionProvider, fp32) · tile" in text
    assert "[3/3]" in text
    assert "3 restored, 1 file ignored in" in text
    assert "MP/s" in text


def test_quiet_prints_only_errors(restore, tree):
    (tree[0] / "broken.png").touch()
    result = restore("-q")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tree[0]}/broken.png: empty file (0 bytes)\n"


def test_the_repeated_command_restores_nothing(restore):
    restore()
    result = restore("-v")
    assert result.exit_code == 0
    assert "0 restored, 3 skipped (3 up to date)" in result.stderr
    assert "skipped a.png (done)" in result.stderr


def test_other_settings_keep_old_results_until_overwrite(restore):
    restore()
    assert "--overwrite" in restore("-s", "0.5").stderr
    assert "3 restored" in restore("-s", "0.5", "--overwrite").stderr


def test_a_broken_image_fails_alone(restore, tree):
    (tree[0] / "broken.png").touch()
    result = restore()
    assert result.exit_code == 1
    assert f"Error: {tree[0]}/broken.png: empty file (0 bytes)" in result.stderr
    assert "3 restored, 1 failed" in result.stderr
    assert "broken.png" not in names(tree[1])


def test_fail_fast_stops_at_the_first(restore, tree):
    (tree[0] / "0.png").touch()
    for number in range(40):
        (tree[0] / f"z{number}.png").touch()
    result = restore("--fail-fast", "-j", "1")
    assert result.exit_code == 1
    assert result.stderr.count("Error:") < 41


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--include", "sub/"], ["sub/b.png", "sub/deep/c.bmp"]),
        (["--exclude", "deep/"], ["a.png", "sub/b.png"]),
        (["--include", "*.png", "--exclude", "a.*"], ["sub/b.png"]),
        (["--no-recursive"], ["a.png"]),
        (["-f", "webp"], ["a.webp", "sub/b.webp", "sub/deep/c.webp"]),
        (["--name", "{stem}.{preset}{ext}", "-p", "denoise"], ["a.denoise.png", "b.denoise.png"]),
    ],
)
def test_selection_and_names(restore, tree, options, expected):
    result = restore(*options)
    assert result.exit_code == 0, result.stderr
    assert [name for name in names(tree[1]) if name in expected] == expected
    assert len(names(tree[1])) in (len(expected), 3)


def test_sample_limits_the_number_of_images(restore, tree):
    assert restore("--sample", "1").exit_code == 0
    assert len(names(tree[1])) == 1


def test_a_list_of_files_is_taken_from_stdin(restore, tree):
    result = restore("--files-from", "-", stdin="sub/b.png\n\n")
    assert result.exit_code == 0, result.stderr
    assert names(tree[1]) == ["sub/b.png"]


def test_a_list_is_filtered_as_a_folder_is(restore, tree):
    listed = "a.png\nsub/b.png\nsub/deep/c.bmp\n"
    result = restore("--files-from", "-", "--exclude", "*.bmp", "--exclude", "a.*", stdin=listed)
    assert result.exit_code == 0, result.stderr
    assert names(tree[1]) == ["sub/b.png"]
    assert "1 restored, 2 files ignored" in result.stderr


@pytest.mark.parametrize("listed", ["", "\n\r\n", ".\n"], ids=["empty", "blank", "folder"])
def test_a_list_without_images_is_named_and_not_the_folder(restore, tree, listed):
    result = restore("--files-from", "-", stdin=listed)
    assert result.exit_code == 3
    assert "Error: --files-from: the list " in result.stderr
    assert "no images (" not in result.stderr


def test_a_list_may_be_separated_by_nul_and_hold_line_breaks(restore, tree, image, tmp_path):
    name = "two\nlines.png" if os.name != "nt" else "one line.png"
    image(tree[0] / name)
    (tmp_path / "list").write_bytes(os.fsencode(name) + b"\0a.png\0")
    result = restore("--files-from", tmp_path / "list", "-0")
    assert result.exit_code == 0, result.stderr
    assert names(tree[1]) == ["a.png", name]


@pytest.mark.parametrize("data", [b"a.png\0sub/b.png\0", "a.png\n".encode("utf-16")])
def test_a_list_that_is_not_text_lines_is_rejected(restore, tree, tmp_path, data):
    (tmp_path / "list").write_bytes(data)
    result = restore("--files-from", tmp_path / "list")
    assert result.exit_code == 2
    assert "list: contains NUL bytes; use -0" in result.stderr


def test_a_byte_order_mark_is_not_part_of_a_name(restore, tree, tmp_path):
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa.png\r\n")
    result = restore("--files-from", tmp_path / "list")
    assert result.exit_code == 0, result.stderr
    assert names(tree[1]) == ["a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_names_that_are_not_text_are_restored_and_emitted(restore, tree, image):
    image(tree[0] / os.fsdecode(b"\xff.png"))
    result = restore("--json")
    assert result.exit_code == 0, result.stderr
    assert "\\xff.png" in [
        event["src"] for event in events(result) if event["event"] == "item.start"
    ]
    assert os.fsdecode(b"\xff.png") in names(tree[1])


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["-0"], 2, "--files-from"),
        (["--files-from", "nowhere"], 2, "nowhere: No such file"),
        (["--include", "*.gif"], 3, "no images ("),
        (["-m", "no-such-model"], 4, "no such model or file"),
        (["-d", "gpu"], 2, 'did you mean "cuda"?'),
        (["-p", "derian"], 2, 'fast; did you mean "derain"?'),
        (["-p", ""], 2, '--preset "": a name is empty; choose among auto, denoise'),
        (["--set", "tile.overlaps=48"], 2, 'unknown key "tile.overlaps"; did you mean "tile.overl'),
        (["--set", "tile.overlap=big"], 2, 'at least 0, got "big"'),
        (["--batch", "0"], 2, "neither 'auto' nor a positive integer"),
        (["--name", "{nonsense}"], 2, "{dir} {stem} {ext} {preset} {model}"),
        (["-s", "2"], 2, "0<=x<=1"),
    ],
)
def test_impossible_requests_are_rejected_with_their_codes(restore, tree, options, code, text):
    result = restore(*options)
    assert result.exit_code == code, result.stderr
    assert text in result.stderr
    assert not names(tree[1])


def test_a_named_device_is_not_replaced_by_another(restore, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = restore("-d", "cuda")
    assert result.exit_code == 5
    assert "--device cuda: ONNX Runtime has no" in result.stderr


def test_a_typo_in_a_preset_file_names_the_line(restore, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("extends: derain\ntile:\n  overlaps: 48\n")
    result = restore("-p", preset)
    assert result.exit_code == 2
    assert 'mine.yaml:3: unknown key "tile.overlaps"; did you mean "tile.overlap"?' in result.stderr


def test_an_option_overrides_the_preset_file(restore, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("tile: {batch: 3}\nio: {jobs: 2}\n")
    lines = restore("-p", preset, "-nv", "--batch", "auto", "-j", "auto").stdout.splitlines()
    assert "tile.batch = auto  (--set)" in lines
    assert "io.jobs = auto  (--set)" in lines


def test_a_variable_is_weaker_than_an_option_and_named_as_origin(restore, monkeypatch):
    monkeypatch.setenv("VARFIX_STRENGTH", "0.25")
    assert "strength = 0.25  (VARFIX_STRENGTH)" in restore("-nv").stdout
    assert "strength = 0.5  (--strength)" in restore("-nv", "-s", "0.5").stdout


def test_a_dry_run_writes_nothing_and_prints_the_plan(restore, tree):
    result = restore("--dry-run")
    assert result.exit_code == 0, result.stderr
    assert not tree[1].exists()
    assert "sub/b.png -> sub/b.png  24x16" in result.stdout
    assert "3 to restore" in result.stdout
    assert "about" in result.stdout


def test_a_dry_run_counts_what_it_cannot_read_on_its_own(restore, tree):
    (tree[0] / "z.png").write_bytes(b"\x89PNG\r\n\x1a\nbut nothing more")
    lines = restore("-n").stdout.splitlines()
    assert "z.png -> z.png  unreadable" in lines
    (counts,) = (line for line in lines if "to restore (" in line)
    assert counts.startswith("3 to restore (")
    assert counts.endswith(", 0 to skip, 1 unreadable")


def test_a_color_that_is_none_ends_the_run_before_it_begins(restore, tree):
    for more in ([], ["-n"]):
        result = restore(*more, "--set", "output.flatten=purpleish")
        assert result.exit_code == 2
        assert '"purpleish" is not a color; use a name such as white, #rrggbb' in result.stderr
    assert not tree[1].exists()


def test_a_dry_run_lists_what_is_done(restore):
    restore()
    assert "a.png: skip (done)" in restore("-n").stdout


def test_a_dry_run_in_json_is_the_plan(restore):
    (plan,) = events(restore("-n", "--json"))
    assert (plan["event"], plan["items"], plan["pixels"]) == ("plan", 3, 3 * 24 * 16)


def test_events_cover_the_whole_run(restore, tree):
    (tree[0] / "broken.png").touch()
    result = restore("--json")
    emitted = events(result)
    assert [emitted[0]["event"], emitted[1]["event"], emitted[-1]["event"]] == [
        "run.start",
        "plan",
        "run.end",
    ]
    assert len({event["run"] for event in emitted}) == 1
    assert len(emitted[0]["run"]) == 26
    ends = {event["event"] for event in emitted if event.get("id") == emitted[2]["id"]}
    assert ends & {"item.done", "item.fail"}
    (failed,) = [event for event in emitted if event["event"] == "item.fail"]
    assert failed["code"] == "decode_empty"
    assert emitted[-1]["exit"] == result.exit_code == 1


def test_the_log_file_holds_the_same_events_and_is_appended_to(restore, tmp_path):
    log = tmp_path / "logs" / "run.ndjson"
    first = restore("--json", "--log-file", log)
    assert log.read_text() == first.stdout
    restore("--log-file", log)
    runs = {json.loads(line)["run"] for line in log.read_text().splitlines()}
    assert len(runs) == 2


def test_a_log_file_that_cannot_be_written_stops_before_the_work(restore, tree):
    result = restore("--log-file", tree[0])
    assert result.exit_code == 2
    result = restore("--log-file", tree[0] / "a.png" / "log")
    assert result.exit_code == 6
    assert "--log-file" in result.stderr
    assert not names(tree[1])


def test_in_place_needs_an_option(varfix, identity, tree):
    arguments = ("dir", tree[0], tree[0], "-m", identity, "-d", "cpu")
    assert varfix(*arguments).exit_code == 2
    assert varfix(*arguments, "--overwrite").exit_code == 0


@pytest.fixture
def slow(tmp_path, image, shelf):
    """Arguments of a run that takes long enough to be interrupted."""
    data = image(tmp_path / "many" / "0.bmp", size=(256, 256)).read_bytes()
    for number in range(1, MANY):
        (tmp_path / "many" / f"{number}.bmp").write_bytes(data)
    return ["dir", tmp_path / "many", tmp_path / "out", "-m", shelf.foreign(), "-d", "cpu"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_same_command_resumes(process, slow, tmp_path, number, code):
    running = process(*slow, "--json")
    while b"item.done" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert b"stopping after the current image; press Ctrl-C again to quit now" in err
    assert json.loads(out.splitlines()[-1])["status"] == "stopped"
    done = len(names(tmp_path / "out"))
    assert 0 < done < MANY
    assert not [name for name in names(tmp_path / "out") if name.endswith(".part")]
    again = process(*slow, "-q", "--json")
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    end = json.loads(out.splitlines()[-1])
    assert (end["skipped"], end["ok"]) == (done, MANY - done)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_prints_a_status_line(process, slow):
    running = process(*slow, "--json")
    while b"item.done" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGUSR1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert f" of {MANY} images".encode() in err


def test_a_closed_event_stream_ends_the_run_with_141(process, slow, tmp_path):
    running = process(*slow, "--json", bufsize=0)
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(60) == 141
    assert b"Traceback" not in running.stderr.read()
    assert len(names(tmp_path / "out")) < MANY
