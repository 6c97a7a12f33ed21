"""The page of `--report FILE.html` shows images, settings and failures, and never runs a name."""

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image
from support.reports import HEADING, STAGES, cards, judged, report_text

from varfix.cli.report import html as report_html
from varfix.cli.report.report import reporting
from varfix.engine.events import ItemDone, ItemFail, ItemSkip, ItemStart, RetryCounts, RunEnd, Warn


def images(card):
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", card)
    ]


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


def test_the_page_shows_images_before_and_after(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.html")
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


def test_the_page_has_settings_and_failures(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    for fact in ("hand-made", "cpu (CPUExecutionProvider, fp32)", "auto", "some failed"):
        assert fact in text
    failed = text.partition("<h2>Failed")[2].partition("</section>")[0]
    assert "broken.png" in failed
    assert "<td>empty file (0 bytes)</td>" in failed
    assert "decode_empty" in failed
    assert re.search(r'title="decode 0\.\d\d s, infer \d+\.\d\d s, encode \d+\.\d\d s"', text)
    assert "output.jpeg_quality" in text


def test_the_page_loads_no_other_files(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.html")
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
