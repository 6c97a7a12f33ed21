"""`--report` lists the result of every image, for people and for programs."""

import csv
import io
import json
import signal
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from support.reports import FOUND, HEADING, cards, emit_images, judged, report_text

from varfix.cli.report.report import ReportCollector, reporting
from varfix.cli.report.rows import Previews, ReportRow
from varfix.engine.errors import DiskFullError, OutputDeniedError
from varfix.engine.events import ItemSkip


def test_a_table_has_columns_for_what_was_found_and_treated(tmp_path):
    first, second, third = csv.DictReader(io.StringIO(judged(tmp_path / "r.csv")))
    assert (first["applied"], first["found_haze"], first["found_rain"]) == ("haze", "0.93", "0.3")
    assert (second["applied"], second["found_noise"]) == ("", "0.61")
    assert {third[column] for column in third if column.startswith("found_")} == {""}
    json_ = json.loads(judged(tmp_path / "r.json"))["pictures"]
    assert json_[0]["found"] == FOUND[0]["found"]
    assert [image["applied"] for image in json_] == [["haze"], [], None]


def test_a_csv_has_a_line_for_each_image(invert_folder, tmp_path):
    result = invert_folder("--report", tmp_path / "r.csv")
    assert result.exit_code == 1
    assert f"report: {tmp_path / 'r.csv'}" in result.stderr
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = {row["src"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "restored",
        "sub/b & <c>.png": "restored",
        "broken.png": "failed",
    }
    assert rows["broken.png"]["code"] == "decode_empty"
    done = rows["a.png"]
    assert (done["dst"], done["width"], done["height"]) == ("a.png", "640", "480")
    stages = [float(done[stage]) for stage in ("decode", "infer", "encode")]
    assert float(done["seconds"]) == pytest.approx(sum(stages), abs=1e-3)
    assert int(done["bytes"]) == (tmp_path / "out" / "a.png").stat().st_size


def test_a_json_is_one_object_with_run_settings_and_images(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.json", "-s", "0.5")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == 1
    assert report["heading"]["settings"]["strength"] == "0.5"
    assert report["heading"]["origins"]["strength"] == "--strength"
    assert report["start"]["device"]["used"] == "cpu"
    assert (report["end"]["ok"], report["end"]["failed"], report["end"]["exit"]) == (2, 1, 1)
    assert sorted(image["status"] for image in report["pictures"]) == [
        "failed",
        "restored",
        "restored",
    ]


def test_a_report_has_the_shift_of_the_tone(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.json")
    images = json.loads((tmp_path / "r.json").read_text())["pictures"]
    (shift,) = (image["tone_shift"] for image in images if image["src"] == "a.png")
    before, after = (
        np.asarray(Image.open(tmp_path / folder / "a.png").convert("RGB"), float) / 255
        for folder in ("in", "out")
    )
    blocks = (after - before).reshape(15, 32, 20, 32, 3).mean((1, 3))
    assert shift == pytest.approx(np.abs(blocks).mean(), rel=0.01)


def test_a_repeated_run_reports_what_it_skipped(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.json")
    invert_folder("--report", tmp_path / "r.json")
    images = json.loads((tmp_path / "r.json").read_text())["pictures"]
    skipped = [(image["src"], image["code"]) for image in images if image["status"] == "skipped"]
    assert sorted(skipped) == [("a.png", "done"), ("sub/b & <c>.png", "done")]


def test_a_name_is_not_a_formula_in_a_spreadsheet(tmp_path):
    text = report_text(tmp_path / "r.csv", ItemSkip(id=0, src="=1+1.png", reason="done"))
    assert "'=1+1.png" in text


@pytest.mark.parametrize("suffix", ["html", "json", "csv"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, suffix):
    def peak(count):
        tracemalloc.start()
        with reporting(tmp_path / f"r.{suffix}", HEADING, lambda line: None) as report:
            emit_images(report, count)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # modules are loaded
    assert peak(2000) < peak(300) + 70_000


def test_a_run_that_breaks_off_still_leaves_its_report(tmp_path):
    with pytest.raises(DiskFullError), reporting(tmp_path / "r.html", HEADING, print) as report:
        emit_images(report, 3, fail={1})
        raise DiskFullError("out/: no space left")
    text = (tmp_path / "r.html").read_text()
    assert len(cards(text)) == 2
    assert "1.png" in text


def test_a_report_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("the older one")
    with reporting(path, HEADING, lambda line: None) as report:
        emit_images(report, 5)
        assert path.read_text() == "the older one"
        assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert json.loads(path.read_text())["pictures"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_full_disk_keeps_the_older_report(tmp_path, monkeypatch):
    def full(self, report, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("varfix.cli.report.table.JsonWriter.compose", full)
    (tmp_path / "r.json").write_text("the older one")
    with pytest.raises(DiskFullError), reporting(tmp_path / "r.json", HEADING, print):
        pass
    assert (tmp_path / "r.json").read_text() == "the older one"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_place_that_cannot_be_written_stops_before_the_work(invert_folder, tmp_path):
    blocked = tmp_path / "in" / "a.png" / "r.html"
    result = invert_folder("--report", blocked)
    assert result.exit_code == OutputDeniedError.exit_code
    assert f"--report {blocked}" in result.stderr
    assert not (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("name", ["r.pdf", "r", "r.html.gz"])
def test_another_format_is_refused(invert_folder, tmp_path, name):
    result = invert_folder("--report", tmp_path / name)
    assert result.exit_code == 2
    assert ".html, .csv or .json" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_row_is_the_same_in_all_formats():
    assert ReportRow.__struct_fields__[:3] == ("id", "src", "dst")
    assert Previews((b"a", b"bc"), (b"d", b"")).size == 4
    assert ReportCollector.SIDE <= 512


def test_a_stopped_run_is_reported(process, tmp_path, image, identity):
    data = image(tmp_path / "in" / "0.bmp", size=(256, 256)).read_bytes()
    for number in range(1, 80):
        (tmp_path / "in" / f"{number}.bmp").write_bytes(data)
    path = tmp_path / "r.json"
    arguments = ["dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu", "--json"]
    running = process(*arguments, "--report", path)
    while b"item.done" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    report = json.loads(path.read_text())
    assert (report["end"]["status"], report["end"]["exit"]) == ("stopped", running.returncode)
    assert report["end"]["ok"] == len(report["pictures"])
