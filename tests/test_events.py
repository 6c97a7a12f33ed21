"""Events are the JSON lines of schema 1, field by field."""

import json
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files

import msgspec
import pytest
from jsonschema import Draft202012Validator
from support.event_schema import SCHEMA_FILE, schema_text

from varfix.engine import events
from varfix.engine.events import (
    DeviceFacts,
    ItemDone,
    ItemFail,
    ItemJudged,
    ItemProgress,
    ItemSkip,
    ItemStart,
    ModelFacts,
    PlanDone,
    RetryCounts,
    RunEnd,
    RunStart,
    Warn,
    encode,
)

NOW = datetime(2026, 11, 21, 2, 43, 28, 120_000, tzinfo=UTC)

CASES = [
    (
        RunStart(
            version="0.2.0",
            command="dir",
            model=ModelFacts(name="varformer-s", sha256="ab12"),
            device=DeviceFacts(
                requested="auto", used="cuda:0", provider="CUDAExecutionProvider", precision="fp16"
            ),
            tile=512,
            batch=8,
        ),
        '{"event":"run.start","version":"0.2.0","command":"dir","model":{"name":"varformer-s",'
        '"sha256":"ab12"},"device":{"requested":"auto","used":"cuda:0",'
        '"provider":"CUDAExecutionProvider","precision":"fp16"},"tile":512,"batch":8}',
    ),
    (
        PlanDone(items=1240, skip_done=310, skip_stale=0, skip_foreign=2, pixels=29_760_000_000),
        '{"event":"plan","items":1240,"skip_done":310,"skip_stale":0,"skip_foreign":2,'
        '"pixels":29760000000,"ignored":0}',
    ),
    (
        ItemStart(id=17, src="a/b.jpg", dst="a/b.jpg", width=6000, height=4000),
        '{"event":"item.start","id":17,"src":"a/b.jpg","dst":"a/b.jpg","width":6000,'
        '"height":4000,"frames":null}',
    ),
    (
        ItemProgress(id=17, done=12, total=96),
        '{"event":"item.progress","id":17,"done":12,"total":96,"unit":"tile",'
        '"fps":null,"eta":null}',
    ),
    (
        ItemDone(
            id=17,
            seconds=1.84,
            stage={"decode": 0.21, "infer": 1.3, "encode": 0.33},
            bytes=18_211_002,
            retries=RetryCounts(),
            tone_shift=0.00031,
        ),
        '{"event":"item.done","id":17,"seconds":1.84,"stage":{"decode":0.21,"infer":1.3,'
        '"encode":0.33},"bytes":18211002,"retries":{"fp32":0,"oom":0},"tone_shift":0.00031}',
    ),
    (
        ItemDone(
            id=18,
            seconds=1.84,
            stage={},
            bytes=18,
            retries=RetryCounts(),
            found={"haze": 0.93, "noise": 0.41},
            applied=("haze",),
        ),
        '{"event":"item.done","id":18,"seconds":1.84,"stage":{},"bytes":18,'
        '"retries":{"fp32":0,"oom":0},"tone_shift":null,"found":{"haze":0.93,"noise":0.41},"applied":["haze"]}',
    ),
    (
        ItemJudged(
            id=18,
            src="a/c.jpg",
            width=6000,
            height=4000,
            seconds=0.1,
            stage={"decode": 0.04, "infer": 0.06},
            found={"haze": 0.93, "noise": 0.41},
            applied=("haze",),
        ),
        '{"event":"item.judged","id":18,"src":"a/c.jpg","width":6000,"height":4000,'
        '"seconds":0.1,"stage":{"decode":0.04,"infer":0.06},"found":{"haze":0.93,"noise":0.41},'
        '"applied":["haze"]}',
    ),
    (
        ItemSkip(id=18, src="a/c.jpg", reason="done"),
        '{"event":"item.skip","id":18,"src":"a/c.jpg","reason":"done"}',
    ),
    (
        ItemFail(id=19, src="a/d.jpg", code="decode_truncated", message="ends", hint="again"),
        '{"event":"item.fail","id":19,"src":"a/d.jpg","code":"decode_truncated",'
        '"message":"ends","hint":"again","retryable":false}',
    ),
    (
        Warn(code="device_fallback", message="CUDA is not available; using CPU"),
        '{"event":"warning","code":"device_fallback","message":"CUDA is not available; using CPU",'
        '"id":null}',
    ),
    (
        RunEnd(
            status="partial",
            exit=1,
            ok=927,
            skipped=312,
            failed=1,
            seconds=1711.4,
            per_second=0.54,
            busy={"infer": 0.91, "encode": 0.44},
        ),
        '{"event":"run.end","status":"partial","exit":1,"ok":927,"skipped":312,"failed":1,'
        '"seconds":1711.4,"per_second":0.54,"busy":{"infer":0.91,"encode":0.44}}',
    ),
    (
        RunEnd(
            status="ok",
            exit=0,
            ok=2,
            skipped=0,
            failed=0,
            seconds=4.5,
            per_second=0.44,
            busy={},
            applied={"haze": 2},
        ),
        '{"event":"run.end","status":"ok","exit":0,"ok":2,"skipped":0,"failed":0,'
        '"seconds":4.5,"per_second":0.44,"busy":{},"applied":{"haze":2}}',
    ),
]
NAMES = [type(event).__name__ for event, _ in CASES]


@pytest.mark.parametrize(("event", "expected"), CASES, ids=NAMES)
def test_an_event_is_one_line_with_these_fields_in_this_order(event, expected):
    head = '{"v":1,"t":"2026-11-21T02:43:28.120Z","run":"01JRUN",'
    assert encode(event, "01JRUN", NOW) == (head + expected[1:] + "\n").encode()


@pytest.mark.parametrize(("event", "text"), CASES, ids=NAMES)
def test_an_event_can_be_read_back_by_its_type(event, text):
    assert msgspec.json.decode(text, type=type(event)) == event


def test_every_kind_of_event_is_checked_here():
    kinds = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, events.Event) and value is not events.Event
    }
    assert kinds == {type(event) for event, _ in CASES}


def test_line_breaks_in_a_message_do_not_break_the_line():
    line = encode(Warn(code="x", message="one\ntwo\u2028three"), "r", NOW)
    assert line.count(b"\n") == 1
    assert json.loads(line)["message"] == "one\ntwo\u2028three"


def test_times_keep_three_digits_however_round():
    stamp = json.loads(encode(CASES[1][0], "r", NOW.replace(microsecond=0)))["t"]
    assert stamp == "2026-11-21T02:43:28.000Z"


def test_events_cannot_be_changed():
    with pytest.raises(AttributeError):
        setattr(CASES[1][0], "items", 3)  # noqa: B010 - a type checker would see it


def test_a_time_of_another_zone_is_not_called_utc():
    elsewhere = NOW.astimezone(timezone(timedelta(hours=2)))
    stamp = json.loads(encode(CASES[1][0], "r", elsewhere))["t"]
    assert datetime.fromisoformat(stamp) == NOW


def test_the_schema_that_ships_is_made_of_these_events():
    assert schema_text() == SCHEMA_FILE.read_text(encoding="utf-8"), (
        "write it anew: python -c 'from support.event_schema import *; write_schema()'"
    )


def test_the_schema_is_one_and_ships_as_data():
    text = files("varfix.engine").joinpath("events.schema.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize(("event", "text"), CASES, ids=NAMES)
def test_every_kind_of_event_fits_the_schema(line_schema, event, text):
    line_schema.validate(json.loads(encode(event, "01JRUN", NOW)))


@pytest.mark.parametrize(
    "change",
    [
        {"event": "item.explode"},
        {"v": 2},
        {"t": 12},
        {"items": "many"},
        {"items": None},
    ],
    ids=str,
)
def test_what_is_no_event_does_not_fit(line_schema, change):
    line = json.loads(encode(CASES[1][0], "01JRUN", NOW))
    assert not line_schema.is_valid({**line, **change})


@pytest.mark.parametrize(
    ("field", "value"), [("found", {"haze": "much"}), ("applied", "haze"), ("found", None)]
)
def test_findings_are_absent_or_what_the_schema_says(line_schema, field, value):
    done = ItemDone(id=1, seconds=0.1, stage={}, bytes=1, retries=RetryCounts())
    line = json.loads(encode(done, "01JRUN", NOW))
    assert field not in line
    line_schema.validate(line)
    assert not line_schema.is_valid({**line, field: value})


@pytest.mark.parametrize("missing", ["v", "t", "run", "event", "items", "pixels"])
def test_every_field_is_always_there(line_schema, missing):
    line = json.loads(encode(CASES[1][0], "01JRUN", NOW))
    del line[missing]
    assert not line_schema.is_valid(line)


def test_later_versions_may_add_fields(line_schema):
    line = json.loads(encode(CASES[1][0], "01JRUN", NOW))
    line_schema.validate({**line, "weather": "fine"})
