"""What an object store does to a run on a bad day, and how the run goes on afterwards."""

import json
import socket

import pytest
from support.runs import Inverter, Setup
from support.s3_server import DENIED, EXPIRED, KEYS, SERVER_ERROR, SLOW_DOWN

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.batch.run import run_batch
from varfix.engine.errors import ExitCode, OutputDeniedError, StoreAccessError, StoreError
from varfix.engine.events import ItemFail, ItemSkip, RunEnd
from varfix.engine.settings.types import IoSettings, Settings
from varfix.engine.storage import objects as store_objects
from varfix.engine.storage.objects import Objects
from varfix.engine.storage.open import open_store

SETTINGS = Settings(io=IoSettings(jobs=2))
NAMES = tuple(f"n/{number}.png" for number in range(4))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """As `~/.config/fsspec` can say: give up soon. And do not wait long before asking again."""
    from botocore.retries.standard import ExponentialBackoff
    from fsspec.config import conf

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.02)
    retries = {"mode": "standard", "max_attempts": 3}
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"retries": retries, "read_timeout": 1}})


class Bucket:
    """Runs between two places in one bucket, and what a run between folders makes."""

    def __init__(self, address, server, folder):
        self.address, self.faults, self.events = address, server.faults, []
        self.name = address.removeprefix("s3://")
        (folder / "in").mkdir()
        self.local = Setup(folder / "in", folder / "out")
        self.local.draw(*NAMES)
        store = Objects(address)
        for name in NAMES:
            store.write(f"in/{name}", (folder / "in" / name).read_bytes())
        self.faults.asked.clear()

    def run(self, **request):
        self.events.clear()
        source, target = (open_store(f"{self.address}/{end}") for end in ("in", "out"))
        plan = plan_batch(source, target, BatchRequest(**request), SETTINGS, "recipe")
        return run_batch(plan, Inverter(), SETTINGS, self.events.append, RunOptions("dir", "sha"))

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def results(self):
        store = Objects(f"{self.address}/out")
        names = [name for name, _ in store.list_objects() if not name.startswith(".varfix/")]
        return {name: store.read(name) for name in names}

    def uninterrupted(self):
        self.local.run()
        return self.local.results()

    def path(self, end, name):
        return f"/{self.name}/{end}/{name}"

    def is_result(self, path):
        return path.startswith(f"/{self.name}/out/") and "/.varfix/" not in path


@pytest.fixture
def remote(bucket, s3, tmp_path):
    return Bucket(bucket, s3, tmp_path)


@pytest.mark.parametrize("answer", [SERVER_ERROR, SLOW_DOWN], ids=["500", "503"])
def test_what_fails_once_is_asked_again(remote, answer):
    remote.faults.refuse = lambda kind, path, count: answer if count == 1 else None
    assert remote.run().exit_code == ExitCode.OK
    assert remote.results() == remote.uninterrupted()
    assert all(remote.faults.asked["PUT", remote.path("out", name)] == 2 for name in NAMES)


def test_an_answer_that_gets_lost_does_not_make_a_stranger_of_our_own_result(remote):
    """The second try of a write that may not replace anything meets the first."""

    def lost(kind, path, count):
        return SERVER_ERROR if kind == "PUT" and count == 1 and remote.is_result(path) else None

    remote.faults.after = lost
    summary = remote.run()
    assert (summary.ok, summary.exit_code) == (len(NAMES), ExitCode.OK)
    assert remote.results() == remote.uninterrupted()


def test_a_source_that_cannot_be_had_costs_itself_alone(remote):
    bad = remote.path("in", NAMES[2])
    remote.faults.refuse = lambda kind, path, count: SERVER_ERROR if path == bad else None
    assert remote.run().exit_code == ExitCode.PARTIAL
    (failure,) = remote.of(ItemFail)
    assert (failure.code, failure.retryable) == ("source_read", True)
    assert failure.message.startswith(f"{remote.address}/in/{NAMES[2]}: cannot be read")
    assert len(remote.results()) == len(NAMES) - 1
    remote.faults.calm()
    summary = remote.run()
    assert (summary.ok, summary.skipped, summary.exit_code) == (1, len(NAMES) - 1, ExitCode.OK)
    assert remote.results() == remote.uninterrupted()


def test_answers_that_do_not_come_are_asked_for_again(remote):
    def wait(kind, path, count):
        return 1.5 if kind == "GET" and path.endswith(NAMES[0]) and count == 1 else 0.1

    remote.faults.wait = wait
    assert remote.run().exit_code == ExitCode.OK
    assert remote.faults.asked["GET", remote.path("in", NAMES[0])] == 2
    assert remote.results() == remote.uninterrupted()


def expire_after(remote, published):
    """Let nobody in any more once so many results have been written."""

    def refuse(kind, path, count):
        done = sum(
            number
            for key, number in remote.faults.asked.items()
            if isinstance(key, tuple) and key[0] == "PUT" and remote.is_result(key[1])
        )
        return EXPIRED if done > published else None

    remote.faults.refuse = refuse


def test_credentials_that_expire_end_the_run_and_it_can_be_continued(remote):
    expire_after(remote, 2)
    with pytest.raises(StoreAccessError, match="credentials have expired") as ended:
        remote.run()
    assert ended.value.exit_code == ExitCode.OUTPUT
    assert "run the same command again" in ended.value.hint
    assert (remote.of(RunEnd)[0].status, remote.of(RunEnd)[0].exit) == ("failed", 6)
    remote.faults.calm()
    there = remote.results()
    assert len(there) == 2
    summary = remote.run()
    assert (summary.ok, summary.skipped) == (2, 2)
    assert {event.reason for event in remote.of(ItemSkip)} == {"done"}
    assert remote.results() == remote.uninterrupted()


def test_credentials_that_expire_for_the_sources_end_the_run_too(remote):
    def refuse(kind, path, count):
        return EXPIRED if kind == "GET" and "/in/" in path else None

    remote.faults.refuse = refuse
    with pytest.raises(StoreAccessError):
        remote.run()
    assert not remote.of(ItemFail)


def test_a_place_that_may_not_be_written_ends_the_run(remote):
    def refuse(kind, path, count):
        return DENIED if kind == "PUT" and remote.is_result(path) else None

    remote.faults.refuse = refuse
    with pytest.raises(OutputDeniedError, match="access denied"):
        remote.run()


def test_a_destination_that_may_not_be_listed_is_reported_before_any_work(remote):
    remote.faults.refuse = lambda kind, path, count: DENIED if kind == "LIST" else None
    with pytest.raises(StoreAccessError, match="access denied"):
        remote.run()


def test_no_secret_is_shown(remote):
    expire_after(remote, 0)
    with pytest.raises(StoreError) as ended:
        remote.run()
    messages = json.dumps([repr(event) for event in remote.events])
    messages += ended.value.message + ended.value.hint
    for key in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        assert KEYS[key] not in messages


def test_a_strangers_object_that_appears_meanwhile_is_left_alone(remote):
    source, target = (open_store(f"{remote.address}/{end}") for end in ("in", "out"))
    plan = plan_batch(source, target, BatchRequest(), SETTINGS, "recipe")
    Objects(target.address).write(NAMES[1], b"somebody's own")
    summary = run_batch(plan, Inverter(), SETTINGS, remote.events.append, RunOptions("dir", "sha"))
    assert (summary.ok, summary.failed) == (len(NAMES) - 1, 1)
    (failure,) = remote.of(ItemFail)
    assert failure.code == "output_taken"
    assert "--overwrite" in failure.hint
    assert remote.results()[NAMES[1]] == b"somebody's own"
    remote.run()
    assert [event.reason for event in remote.of(ItemSkip)].count("foreign") == 1
    remote.run(overwrite=True)
    assert remote.results() == remote.uninterrupted()


def test_clips_in_a_store_are_refused_by_name(remote):
    Objects(f"{remote.address}/in").write("clip.mp4", b"x")
    assert remote.run().exit_code == ExitCode.PARTIAL
    (failure,) = remote.of(ItemFail)
    assert failure.message.startswith(f"{remote.address}/in/clip.mp4: videos are restored only")
    assert len(remote.results()) == len(NAMES)


@pytest.fixture
def mute(monkeypatch):
    """A store that takes connections, and never says anything or takes much more."""
    from fsspec.config import conf

    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    once = {"retries": {"mode": "standard", "max_attempts": 1}, "read_timeout": 0.5}
    monkeypatch.setitem(conf, "s3", {"config_kwargs": once})
    monkeypatch.setattr(store_objects, "_BODIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield open_store("s3://bucket/out")


@pytest.mark.parametrize("size", [100, 8_000_000])
def test_a_store_that_falls_silent_is_given_up(mute, size, monkeypatch):
    monkeypatch.setattr(store_objects, "_LONGEST", 2.0 if size > 100 else 600.0)
    monkeypatch.setattr(store_objects, "_SLOWEST", 1e9)
    with pytest.raises(StoreError, match=r"no response in time|does not answer"):
        mute.publish("a.png", b"x" * size, overwrite=False)
