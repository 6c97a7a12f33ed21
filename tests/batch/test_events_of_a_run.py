"""A run emits what happens: in order, once, and correctly."""

import json
import os
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from msgspec import UNSET
from PIL import Image
from support.identity import IdentityRestorer
from support.judging import DARK, HAZY, Judging
from support.runs import Inverter, counts, replace_output

from varfix.engine.batch.context import RunOptions
from varfix.engine.errors import EncodeError, ExitCode, SourceReadError
from varfix.engine.events import (
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemSkip,
    ItemStart,
    PlanDone,
    RunEnd,
    RunStart,
    Warn,
    encode,
)
from varfix.engine.restoration.restorer import Retries


def test_events_come_in_order(setup):
    setup.draw("a.png", "b.png", "c.png")
    setup.run()
    (setup.out / "b.png").unlink()
    (setup.source / "d.png").write_bytes(b"broken")
    summary = setup.run(IdentityRestorer())
    assert isinstance(setup.events[0], RunStart)
    assert isinstance(setup.events[1], PlanDone)
    assert [type(event) for event in setup.events[2:4]] == [ItemSkip, ItemSkip]
    assert isinstance(setup.events[-1], RunEnd)
    kinds = Counter(type(event) for event in setup.events)
    assert kinds == {
        RunStart: 1,
        PlanDone: 1,
        ItemSkip: 2,
        ItemStart: 2,
        ItemProgress: 1,
        ItemDone: 1,
        ItemFail: 1,
        RunEnd: 1,
    }
    for number in {event.id for event in setup.of(ItemStart)}:
        mine = [e for e in setup.events if getattr(e, "id", None) == number]
        assert isinstance(mine[0], ItemStart)
        assert isinstance(mine[-1], (ItemDone, ItemFail))
    end = setup.events[-1]
    assert (end.status, end.exit, end.ok, end.skipped, end.failed) == ("partial", 1, 1, 2, 1)
    assert (summary.ok, summary.skipped, summary.failed) == (1, 2, 1)


def test_the_first_events_have_model_device_and_plan(setup):
    setup.draw("a.png", "b.png")
    setup.run(options=RunOptions("dir", "digest"))
    start, plan = setup.events[:2]
    assert (start.command, start.model.name, start.model.sha256) == ("dir", "identity", "digest")
    assert (start.device.used, start.device.precision, start.tile, start.batch) == (
        "cpu",
        "fp32",
        64,
        4,
    )
    assert (plan.items, plan.pixels) == (2, 2 * 9 * 14)


def test_the_start_event_of_an_image_has_names_and_size(setup):
    setup.draw("sub/a.png")
    setup.run(settings=replace_output(format="webp"))
    (start,) = setup.of(ItemStart)
    assert (start.src, start.dst) == ("sub/a.png", "sub/a.webp")
    assert (start.width, start.height, start.frames) == (14, 9, None)


@pytest.mark.parametrize(("error", "retryable"), [(EncodeError, False), (SourceReadError, True)])
def test_a_failure_event_has_a_hint(setup, error, retryable):
    class Failing(Inverter):
        def restore(self, tiles, prior):
            raise error("it broke", hint="mend it")

    setup.draw("a.png")
    setup.run(Failing())
    (failed,) = setup.of(ItemFail)
    assert (failed.src, failed.code) == ("a.png", error.code)
    assert failed.message == f"{setup.source / 'a.png'}: it broke"
    assert (failed.hint, failed.retryable) == ("mend it", retryable)


def test_the_event_of_a_finished_image_has_stages_bytes_and_retries(setup):
    class Retrying(Inverter):
        needed = iter([Retries(fp32=2, oom=1), Retries(fp32=2)])

        def restore(self, tiles, prior):
            return replace(super().restore(tiles, prior), retries=next(self.needed))

    setup.draw("a.png", "b.png")
    setup.run(Retrying())
    first, second = sorted(setup.of(ItemDone), key=lambda event: event.id)
    assert set(first.stage) == {"decode", "infer", "encode"}
    assert first.seconds == pytest.approx(sum(first.stage.values()), abs=2e-4)
    assert first.bytes == (setup.out / "a.png").stat().st_size
    assert (first.retries.fp32, first.retries.oom) == (2, 1)
    assert (second.retries.fp32, second.retries.oom) == (2, 0)


def test_each_image_says_what_was_found_and_treated(setup):
    setup.draw("a.png", "b.png", "c.png")
    setup.run(Judging(given=(HAZY, DARK, DARK)))
    done = sorted(setup.of(ItemDone), key=lambda event: event.id)
    assert [event.found for event in done] == [
        {"haze": 0.93, "noise": 0.41},
        {"haze": 0.03, "noise": 0.81},
        {"haze": 0.03, "noise": 0.81},
    ]
    assert [event.applied for event in done] == [("haze",), ("noise",), ("noise",)]
    assert setup.of(RunEnd)[0].applied == {"noise": 2, "haze": 1}


def test_a_model_without_findings_reports_none(setup):
    setup.draw("a.png")
    setup.run()
    (done,), (end,) = setup.of(ItemDone), setup.of(RunEnd)
    assert done.found is done.applied is end.applied is UNSET


def test_findings_do_not_change_the_manifest(setup):
    setup.draw("a.png")
    setup.run(Judging())
    (entry,) = (setup.out / ".varfix" / "run.jsonl").read_text().splitlines()
    assert not {"found", "applied"} & json.loads(entry).keys()
    assert counts(setup.run(Judging())) == (0, 1, 0, ExitCode.OK)


def test_progress_is_emitted_at_most_twice_a_second(setup, monkeypatch):
    setup.source.mkdir(exist_ok=True)
    Image.new("RGB", (600, 500), 90).save(setup.source / "a.png")

    class Slow(Inverter):
        def restore(self, tiles, prior):
            time.sleep(0.02)
            return super().restore(tiles, prior)

    setup.run(Slow(batch=2))
    progress = setup.of(ItemProgress)
    (done,) = setup.of(ItemDone)
    assert 1 <= len(progress) <= 1 + 2 * done.stage["infer"]
    assert progress[-1].done == progress[-1].total > 100


def test_shares_of_time_are_between_0_and_1(setup):
    setup.draw(*(f"{number}.png" for number in range(10)))
    setup.run()
    busy = setup.of(RunEnd)[0].busy
    assert set(busy) == {"decode", "infer", "encode"}
    assert all(0.0 <= share <= 1.0 for share in busy.values())


def test_names_that_are_not_text_can_be_emitted(setup):
    setup.draw("x.png")
    try:
        (setup.source / "x.png").rename(setup.source / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (setup.source / os.fsdecode(b"br\xff.png")).write_bytes(b"broken")
    assert counts(setup.run()) == (1, 0, 1, ExitCode.PARTIAL)
    lines = [encode(event, "r", datetime.now(UTC)) for event in setup.events]
    assert any(rb"caf\\xe9.png" in line for line in lines)


def test_metadata_that_a_format_cannot_hold_is_a_warning(setup):
    setup.draw("a.png")
    deep = np.random.default_rng(0).integers(0, 65536, (9, 14), np.uint16)
    Image.fromarray(deep).save(setup.source / "deep.png")
    setup.run(settings=replace_output(format="webp"))
    (warning,) = setup.of(Warn)
    (start,) = (event for event in setup.of(ItemStart) if event.src == "deep.png")
    assert (warning.code, warning.id) == ("metadata", start.id)
    assert warning.message.startswith(f"{setup.source / 'deep.png'}: ")
