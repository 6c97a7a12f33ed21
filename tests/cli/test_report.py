"""`--report` lists the result of every image, for people and for programs."""

import base64
import csv
import html
import io
import json
import re
import shutil
import signal
import subprocess
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from varfix.cli.report import html as report_html
from varfix.cli.report.report import ReportCollector, reporting
from varfix.cli.report.rows import Previews, ReportHeader, ReportRow
from varfix.engine.errors import DiskFullError, OutputDeniedError
from varfix.engine.events import (
    ItemDone,
    ItemFail,
    ItemSkip,
    ItemStart,
    PlanDone,
    RetryCounts,
    RunEnd,
    Warn,
)

HEADING = ReportHeader(
    source="in", target="out", preset="auto", settings={"strength": "1.0"}, origins={}
)
STAGES = {"decode": 0.1, "infer": 1.0, "encode": 0.2}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def restore(varfix, shelf, tmp_path, image):
    """Run `varfix dir` over two good images and a broken one, with a model that inverts."""
    image(tmp_path / "in" / "a.png", size=(640, 480))
    image(tmp_path / "in" / "sub" / "b & <c>.png", 1)
    (tmp_path / "in" / "broken.png").touch()
    model = shelf.restore(nodes=[("Sub", ["c1", "tile"], ["restored"], {})])
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", model, "-d", "cpu")
    return lambda *options: varfix(*where, *options)


def tell(report, count, fail=()):
    """Tell a report of so many images."""
    report(PlanDone(items=count, skip_done=0, skip_stale=0, skip_foreign=0, pixels=count))
    pixels = np.zeros((8, 8, 3), np.float32)
    for number in range(count):
        src = f"{number}.png"
        report(ItemStart(id=number, src=src, dst=src, width=8, height=8))
        if number in fail:
            report(ItemFail(id=number, src=src, code="decode_empty", message=f"{src}: empty"))
            continue
        report.add_previews(number, pixels, pixels)
        report(ItemDone(id=number, seconds=1.3, stage=STAGES, bytes=9, retries=RetryCounts(oom=1)))


def report_text(path, *events, count=0, fail=()):
    """Write a report of these events and return its text."""
    with reporting(path, HEADING, lambda line: None) as report:
        tell(report, count, fail)
        assert report is not None
        for event in events:
            report(event)
    return path.read_text(encoding="utf-8")


def cards(text):
    return re.findall(r'<figure class="pair".*?</figure>', text)


def images(card):
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", card)
    ]


FOUND = [
    {"found": {"noise": 0.02, "haze": 0.93, "rain": 0.3}, "applied": ("haze",)},
    {"found": {"noise": 0.61, "haze": 0.01, "rain": 0.2}, "applied": ()},
    {},
]


def judged(path):
    """Write a report of three images, the last one by a model that judges nothing."""
    done = {"seconds": 1.3, "stage": STAGES, "bytes": 9, "retries": RetryCounts()}
    pixels = np.zeros((8, 8, 3), np.float32)
    with reporting(path, HEADING, lambda line: None) as report:
        assert report is not None
        for number, found in enumerate(FOUND):
            name = f"{number}.png"
            report(ItemStart(id=number, src=name, dst=name, width=8, height=8))
            report.add_previews(number, pixels, pixels)
            report(ItemDone(id=number, **done, **found))
    return path.read_text(encoding="utf-8")


def test_a_table_has_columns_for_what_was_found_and_treated(tmp_path):
    first, second, third = csv.DictReader(io.StringIO(judged(tmp_path / "r.csv")))
    assert (first["applied"], first["found_haze"], first["found_rain"]) == ("haze", "0.93", "0.3")
    assert (second["applied"], second["found_noise"]) == ("", "0.61")
    assert {third[column] for column in third if column.startswith("found_")} == {""}
    json_ = json.loads(judged(tmp_path / "r.json"))["pictures"]
    assert json_[0]["found"] == FOUND[0]["found"]
    assert [one["applied"] for one in json_] == [["haze"], [], None]


def test_the_page_shows_what_was_found_beside_each_image(tmp_path):
    text = judged(tmp_path / "r.html")
    assert '<body class="judged">' in text
    first, second, third = cards(text)
    assert "<b>haze&nbsp;93%</b> <span>rain&nbsp;30%</span></span>" in first
    assert 'data-haze="0.930"' in first
    assert "noise&nbsp;61%" in second
    assert "data-" not in third.replace("data:", "")
    assert text.count('data-noise="0.610"') == 2  # the card and the line of the table
    assert '<body class="unjudged">' in report_text(tmp_path / "none.html", count=1)


def test_a_csv_has_a_line_for_each_image(restore, tmp_path):
    result = restore("--report", tmp_path / "r.csv")
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


def test_a_json_is_one_object_with_run_settings_and_images(restore, tmp_path):
    restore("--report", tmp_path / "r.json", "-s", "0.5")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == 1
    assert report["heading"]["settings"]["strength"] == "0.5"
    assert report["heading"]["origins"]["strength"] == "--strength"
    assert report["start"]["device"]["used"] == "cpu"
    assert (report["end"]["ok"], report["end"]["failed"], report["end"]["exit"]) == (2, 1, 1)
    assert sorted(one["status"] for one in report["pictures"]) == ["failed", "restored", "restored"]


def test_a_report_has_the_shift_of_the_tone(restore, tmp_path):
    restore("--report", tmp_path / "r.json")
    images = json.loads((tmp_path / "r.json").read_text())["pictures"]
    (shift,) = (one["tone_shift"] for one in images if one["src"] == "a.png")
    before, after = (
        np.asarray(Image.open(tmp_path / folder / "a.png").convert("RGB"), float) / 255
        for folder in ("in", "out")
    )
    blocks = (after - before).reshape(15, 32, 20, 32, 3).mean((1, 3))
    assert shift == pytest.approx(np.abs(blocks).mean(), rel=0.01)


def test_images_whose_tone_moved_are_flagged(tmp_path):
    def done(number, shift):
        return ItemDone(
            id=number, seconds=1.0, stage=STAGES, bytes=9, retries=RetryCounts(), tone_shift=shift
        )

    end = RunEnd(
        status="ok", exit=0, ok=4, skipped=0, failed=0, seconds=4.0, per_second=1.0, busy={}
    )
    shifts = (0.0004, 0.0100, 0.0131, 0.2)
    text = report_text(tmp_path / "r.html", *(done(*pair) for pair in enumerate(shifts)), end)
    assert re.findall(r'<td class="num"><b class="failed">(.*?)</b>', text) == ["1.3%", "20.0%"]
    assert "<b>2</b><span>tone moved over 1%</span>" in text
    assert "tone moved" not in report_text(tmp_path / "s.html", done(0, 0.01), end)


def test_a_repeated_run_reports_what_it_skipped(restore, tmp_path):
    restore("--report", tmp_path / "r.json")
    restore("--report", tmp_path / "r.json")
    images = json.loads((tmp_path / "r.json").read_text())["pictures"]
    skipped = [(one["src"], one["code"]) for one in images if one["status"] == "skipped"]
    assert sorted(skipped) == [("a.png", "done"), ("sub/b & <c>.png", "done")]


def test_the_page_shows_images_before_and_after(restore, tmp_path):
    restore("--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    (first,) = [card for card in cards(text) if "a.png" in card]
    before, after, before_near, after_near = images(first)
    assert before.shape == after.shape == (384, 512, 3)
    assert np.abs(255 - before - after).mean() < 4  # the model inverts
    assert before_near.shape == (341, 512, 3)
    assert np.abs(255 - before_near - after_near).mean() < 16
    assert "actual size" in first
    (small,) = [card for card in cards(text) if "a.png" not in card]
    assert len(images(small)) == 2
    assert "actual size" not in small
    assert 'aria-label="a.png: before on the left, after on the right"' in first
    assert "640&times;480" in first


def test_the_page_has_settings_and_failures(restore, tmp_path):
    restore("--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    for fact in ("hand-made", "cpu (CPUExecutionProvider, fp32)", "auto", "some failed"):
        assert fact in text
    failed = text.partition("<h2>Failed")[2].partition("</section>")[0]
    assert "broken.png" in failed
    assert "<td>empty file (0 bytes)</td>" in failed
    assert "decode_empty" in failed
    assert re.search(r'title="decode 0\.\d\d s, infer \d+\.\d\d s, encode \d+\.\d\d s"', text)
    assert "output.jpeg_quality" in text


def test_the_page_loads_no_other_files(restore, tmp_path):
    restore("--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert not re.findall(r"(?:https?:)?//\w", re.sub(r"base64,[^\"]+", "", text))
    assert "default-src 'none'" in text
    assert "$" not in re.sub(r"base64,[^\"]+", "", text)


def test_names_are_text_and_never_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'&.png"
    fail = ItemFail(id=0, src=evil, code="x", message=f"{evil}: <b>bad</b>", hint="<i>h</i>")
    text = report_text(
        tmp_path / "r.html",
        fail,
        ItemSkip(id=1, src=evil, reason="done"),
        Warn(code="w", message="<b>w</b>"),
    )
    assert html.escape(evil) in text
    assert "skipped (up to date)" in text
    for markup in ("<script>alert", "<b>bad", "<i>h", "<b>w"):
        assert markup not in text


def test_a_name_is_not_a_formula_in_a_spreadsheet(tmp_path):
    text = report_text(tmp_path / "r.csv", ItemSkip(id=0, src="=1+1.png", reason="done"))
    assert "'=1+1.png" in text


def test_a_large_run_shows_evenly_spaced_images_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(report_html, "SHOWN", 10)
    monkeypatch.setattr(report_html, "ROWS", 30)
    text = report_text(tmp_path / "r.html", count=95)
    names = [re.search(r'class="name">(\d+)\.png', card)[1] for card in cards(text)]
    assert [int(name) for name in names] == list(range(0, 95, 10))
    assert "10 of 95 restored images, evenly spaced" in text
    assert "the first 30 of 95; --report FILE.csv" in text
    assert text.count('class="stack"') == 30


def test_the_bytes_of_previews_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(report_html, "BYTES", 12_000)
    text = report_text(tmp_path / "r.html", count=50)
    assert 1 < len(cards(text)) < 50
    assert f"{len(cards(text))} of 50 restored images" in text


@pytest.mark.parametrize("suffix", ["html", "json", "csv"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, suffix):
    def peak(count):
        tracemalloc.start()
        with reporting(tmp_path / f"r.{suffix}", HEADING, lambda line: None) as report:
            tell(report, count)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # modules are loaded
    assert peak(2000) < peak(300) + 70_000


def test_a_failed_image_leaves_no_card(tmp_path):
    path = tmp_path / "r.html"
    with reporting(path, HEADING, lambda line: None) as report:
        pixels = np.zeros((8, 8, 3), np.float32)
        assert report is not None
        report(ItemStart(id=0, src="a", dst="a", width=8, height=8))
        report.add_previews(0, pixels, pixels)
        report(ItemFail(id=0, src="a", code="encode_failed", message="a: no"))
    assert not cards(path.read_text())


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("ok", "all restored"),
        ("partial", "some failed"),
        ("stopped", "stopped"),
        ("failed", "failed"),
    ],
)
def test_the_page_has_the_end_of_the_run(tmp_path, status, verdict):
    end = RunEnd(
        status=status, exit=0, ok=1, skipped=2, failed=0, seconds=75.0, per_second=0.5, busy={}
    )
    text = report_text(tmp_path / "r.html", end)
    assert f'<span class="verdict {status}">{verdict}</span>' in text
    assert "<b>1:15</b><span>time</span>" in text


def test_a_run_that_breaks_off_still_leaves_its_report(tmp_path):
    with pytest.raises(DiskFullError), reporting(tmp_path / "r.html", HEADING, print) as report:
        tell(report, 3, fail={1})
        raise DiskFullError("out/: no space left")
    text = (tmp_path / "r.html").read_text()
    assert len(cards(text)) == 2
    assert "1.png" in text


def test_a_report_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("the older one")
    with reporting(path, HEADING, lambda line: None) as report:
        tell(report, 5)
        assert path.read_text() == "the older one"
        assert [one.name for one in tmp_path.iterdir()] == ["r.json"]
    assert json.loads(path.read_text())["pictures"]
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_a_full_disk_keeps_the_older_report(tmp_path, monkeypatch):
    def full(self, report, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("varfix.cli.report.table.JsonWriter.compose", full)
    (tmp_path / "r.json").write_text("the older one")
    with pytest.raises(DiskFullError), reporting(tmp_path / "r.json", HEADING, print):
        pass
    assert (tmp_path / "r.json").read_text() == "the older one"
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_a_place_that_cannot_be_written_stops_before_the_work(restore, tmp_path):
    blocked = tmp_path / "in" / "a.png" / "r.html"
    result = restore("--report", blocked)
    assert result.exit_code == OutputDeniedError.exit_code
    assert f"--report {blocked}" in result.stderr
    assert not (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("name", ["r.pdf", "r", "r.html.gz"])
def test_another_format_is_refused(restore, tmp_path, name):
    result = restore("--report", tmp_path / name)
    assert result.exit_code == 2
    assert ".html, .csv or .json" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_row_is_the_same_in_all_formats():
    assert ReportRow.__struct_fields__[:3] == ("id", "src", "dst")
    assert Previews((b"a", b"bc"), (b"d", b"")).size == 4
    assert ReportCollector.SIDE <= 512


def test_a_stopped_run_is_reported(process, tmp_path, image, identity):
    one = image(tmp_path / "in" / "0.bmp", size=(256, 256)).read_bytes()
    for number in range(1, 80):
        (tmp_path / "in" / f"{number}.bmp").write_bytes(one)
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


# In a browser


@pytest.fixture
def browser(tmp_path):
    """Let Chromium open a page; returns its DOM afterwards, or writes a screenshot."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")

    def visit(page, *options):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)

    return visit


@pytest.fixture
def page(restore, tmp_path):
    restore("--report", tmp_path / "r.html")
    return tmp_path / "r.html"


@pytest.mark.slow
def test_the_browser_logs_no_error_and_loads_every_image(browser, page, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var images = Array.from(document.images);
      document.title = images.length + " images, " +
        images.filter(function (one) { return one.naturalWidth > 0; }).length + " shown";
    });</script></body>"""
    probe.write_text(page.read_text().replace("</body>", check))
    seen = browser(probe, "--dump-dom", "--enable-logging=stderr")
    assert "<title>6 images, 6 shown</title>" in seen.stdout
    assert "CONSOLE" not in seen.stderr


@pytest.mark.slow
def test_a_slider_uncovers_the_image_and_has_a_value(browser, page, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var slider = document.querySelector(".frame input");
      slider.focus();
      slider.stepUp(10);
      slider.dispatchEvent(new Event("input", {bubbles: true}));
      var pair = slider.closest(".pair"), style = getComputedStyle(pair);
      document.title = [pair.style.getPropertyValue("--x"), slider.getAttribute("aria-valuetext"),
        document.activeElement === slider, style.outlineStyle,
        getComputedStyle(pair.querySelectorAll("img")[1]).clipPath].join("|");
    });</script></body>"""
    probe.write_text(page.read_text().replace("</body>", check))
    title = re.search("<title>(.*?)</title>", browser(probe, "--dump-dom").stdout)[1]
    assert title.split("|") == [
        "70",
        "70 % before, the rest after",
        "true",
        "solid",
        "inset(0px 0px 0px 70%)",
    ]


@pytest.mark.slow
def test_images_are_sorted_by_what_was_found(browser, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var select = document.querySelector(".sort select"), orders = [select.checkVisibility()];
      ["noise", ""].forEach(function (kind) {
        select.value = kind;
        select.dispatchEvent(new Event("change"));
        document.querySelectorAll(".sorted").forEach(function (list) {
          orders.push(Array.from(list.querySelectorAll(".name"), function (name) {
            return name.textContent[0];
          }).join(""));
        });
      });
      document.title = orders.join("|");
    });</script></body>"""
    probe.write_text(judged(tmp_path / "r.html").replace("</body>", check))
    title = re.search("<title>(.*?)</title>", browser(probe, "--dump-dom").stdout)[1]
    assert title == "true|102|102|012|012"


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_the_page_follows_the_color_scheme_of_the_browser(browser, page, tmp_path, scheme, dark):
    shot = tmp_path / "shot.png"
    wish = f"--blink-settings=preferredColorScheme={scheme}"
    browser(page, f"--screenshot={shot}", "--window-size=1280,1400", "--hide-scrollbars", wish)
    corner = np.asarray(Image.open(shot).convert("L"))[:8, :8].mean()
    assert bool(corner < 60) is dark
