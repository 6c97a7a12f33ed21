"""Killed at any moment and repeated, a run has the results of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.identity import IdentityRestorer
from support.runs import uninterrupted

KILLS = {
    "while bytes are written": """
def die(part, data):
    part.write_bytes(data[: len(data) // 2])
    kill()
arm(atomic, "_write", die)
""",
    "before the final name": """
arm(Path, "replace", lambda part, target: kill())
""",
    "after the final name": """
real = Path.replace
def die(part, target):
    real(part, target)
    kill()
arm(Path, "replace", die)
""",
    "while the manifest is written": """
def die(manifest, entry):
    path = manifest.destination / ".varfix" / "run.jsonl"
    with path.open("ab") as file:
        file.write(b'{"dst": "half')
    kill()
arm(FileManifest, "append", die)
""",
    "after an entry": """
entered = FileManifest.append
def die(manifest, entry):
    entered(manifest, entry)
    kill()
arm(FileManifest, "append", die)
""",
}

CHILD = """
import os, signal, sys, time
from pathlib import Path
from varfix.engine.system import atomic
from varfix.engine.batch.run import run_batch
from varfix.engine.batch.context import RunOptions
from varfix.engine.storage.manifest import FileManifest
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from support.identity import IdentityRestorer
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import IoSettings, Settings

source, out, overwrite, recipe, pause = sys.argv[1:]

class Inverter(IdentityRestorer):
    def restore(self, tiles, prior):
        time.sleep(float(pause))
        return RestoredTiles(1.0 - tiles)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(owner, name, deadly):
    real, calls = getattr(owner, name), []
    def call(*arguments):
        calls.append(1)
        return (deadly if len(calls) == 4 else real)(*arguments)
    setattr(owner, name, call)

#KILL#
settings = Settings(io=IoSettings(jobs=2))
request = BatchRequest(overwrite=overwrite == "yes")
plan = plan_batch(Path(source), Path(out), request, settings, recipe)
print("planned", flush=True)
run_batch(plan, Inverter(), settings, lambda event: None, RunOptions("dir", "sha"))
"""


def child(setup, kill="", overwrite=False, recipe="recipe", pause=0.0):
    script = CHILD.replace("#KILL#", kill)
    facts = [setup.source, setup.out, "yes" if overwrite else "no", recipe, pause]
    command = [sys.executable, "-c", script, *map(str, facts)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where `support` is
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=env)


def killed(setup, **facts):
    with child(setup, **facts) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def assert_nothing_partial(setup, expected):
    for name, data in setup.results().items():
        if not name.rpartition("/")[2].startswith("."):
            assert data == expected[name]


KILLABLE = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")


@KILLABLE
@pytest.mark.parametrize("moment", KILLS)
def test_after_sigkill_a_repeated_run_has_the_same_results(setup, moment):
    setup.draw(*(f"{number % 3}/{number}.png" for number in range(9)))
    expected = uninterrupted(setup)
    killed(setup, kill=KILLS[moment])
    assert 0 < len(setup.results()) < 9
    assert_nothing_partial(setup, expected)
    summary = setup.run()
    assert summary.ok + summary.skipped == 9
    assert summary.ok >= 4
    assert setup.results() == expected
    assert not list(setup.out.rglob(".*.part"))
    again = setup.plan()
    assert (len(again.items), again.skipped("done")) == (0, 9)


@KILLABLE
@pytest.mark.parametrize("moment", ["while bytes are written", "before the final name"])
def test_killed_while_replacing_older_results_stay_complete(setup, moment):
    setup.draw(*(f"{number}.bmp" for number in range(6)))  # old and new have the same size
    setup.run(IdentityRestorer())
    older = setup.results()
    expected = uninterrupted(setup)
    killed(setup, kill=KILLS[moment], overwrite=True, recipe="other")
    for name, data in setup.results().items():
        if not name.startswith("."):
            assert data in (older[name], expected[name])
    setup.run(plan=setup.plan(recipe="other", overwrite=True))
    assert setup.results() == expected


@KILLABLE
def test_after_sigkill_in_place_nothing_is_restored_twice(setup):
    setup.draw(*(f"{number}.png" for number in range(6)))
    expected = uninterrupted(setup)
    setup.out = setup.source
    killed(setup, kill=KILLS["before the final name"], overwrite=True)
    setup.run(overwrite=True)
    assert setup.results() == expected


@KILLABLE
def test_killed_at_any_moment_and_repeated_until_done(setup):
    setup.draw(*(f"{number}.png" for number in range(8)))
    expected = uninterrupted(setup)
    for delay in (0.0, 0.05, 0.12):
        with child(setup, pause=0.04) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert_nothing_partial(setup, expected)
    assert setup.run().failed == 0
    assert setup.results() == expected
