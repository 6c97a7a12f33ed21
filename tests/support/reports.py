"""Reports of runs that did not happen: events in, text out."""

import re

import numpy as np

from varfix.cli.report.report import reporting
from varfix.cli.report.rows import ReportHeader
from varfix.engine.events import ItemDone, ItemFail, ItemStart, PlanDone, RetryCounts

HEADING = ReportHeader(
    source="in", target="out", preset="auto", settings={"strength": "1.0"}, origins={}
)

STAGES = {"decode": 0.1, "infer": 1.0, "encode": 0.2}


def emit_images(report, count, fail=()):
    """Send a report the events of so many images."""
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
        emit_images(report, count, fail)
        assert report is not None
        for event in events:
            report(event)
    return path.read_text(encoding="utf-8")


def cards(text):
    """Return the elements of a page that show an image before and after."""
    return re.findall(r'<figure class="pair".*?</figure>', text)


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
