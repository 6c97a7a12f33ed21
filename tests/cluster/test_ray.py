"""On a Ray cluster a run ends as it does in one process, whoever is killed on the way."""

import re
import signal

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here"),
]


def ended(process, seconds=300):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def same(job, local):
    assert job.results() == local.results()
    assert job.entries() == local.entries()


@pytest.mark.parametrize("way", ["auto", "client"])
def test_a_cluster_makes_the_bytes_that_this_machine_makes(job, local, way):
    process = job.start("auto" if way == "auto" else job.machines.client)
    code, out, err = ended(process)
    assert (code, out) == (0, ""), err
    same(job, local)
    assert len(job.events("item.done")) == 300
    # Nothing of Ray's own talk.
    told = [line for line in err.splitlines() if not re.match(r"\[ *\d+/300\] ", line)]
    words = ["Connecting", "Starting", "Looking", "varfix", "300 restored in"]
    assert [line for line in told if not line.startswith(tuple(words))] == []
    assert told[-1].startswith("300 restored in ")


def test_workers_and_the_driver_are_killed_and_nothing_is_lost(job, local):
    process = job.start()
    job.wait_until(60, process)
    victim = job.machines.stations()[0]
    victim.kill()
    job.wait_until(160, process)
    process.kill()
    process.communicate()
    killed_at = len(job.results())
    assert killed_at < 300
    assert [event["code"] for event in job.events("warning")] == ["worker_lost"]
    (warning,) = job.events("warning")
    assert f":{victim.pid} was lost (its process died)" in warning["message"]

    code, out, _ = ended(job.start())
    assert (code, out) == (0, "")
    same(job, local)
    (plan,) = job.events("plan")[1:]
    assert plan["skip_foreign"] == plan["skip_stale"] == 0
    assert plan["skip_done"] >= killed_at
    assert plan["skip_done"] + len(of_run(job, 1, "item.done")) == 300
    # Nothing that was told to be done is made again.
    assert not finished(job, 0) & {event["src"] for event in of_run(job, 1, "item.start")}


def finished(job, number):
    names = {event["id"]: event["src"] for event in of_run(job, number, "item.start")}
    return {names[event["id"]] for event in of_run(job, number, "item.done")}


def of_run(job, number, kind):
    runs = list(dict.fromkeys(event["run"] for event in job.events("run.start")))
    return [event for event in job.events(kind) if event["run"] == runs[number]]


def test_through_rays_client_a_killed_driver_leaves_nothing_behind_that_writes(job, local):
    process = job.start(job.machines.client)
    job.wait_until(60, process)
    process.kill()
    process.communicate()
    code, _, err = ended(job.start(job.machines.client))
    assert code == 0, err
    same(job, local)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_stops_as_everywhere(job, local, number):
    process = job.start()
    job.wait_until(30, process)
    process.send_signal(number)
    code, out, err = ended(process)
    assert (code, out) == ({signal.SIGINT: 130, signal.SIGTERM: 143}[number], "")
    assert "Stopping after the current image." in err
    made = len(job.results())
    assert 30 <= made < 300
    assert len(job.entries()) == made
    assert ended(job.start())[0] == 0
    same(job, local)


def test_a_dry_run_asks_the_cluster_what_it_has(job):
    code, out, err = ended(job.start("auto", "-n", "--sample", "3"))
    assert code == 0, err
    assert "halving on cpu" in out or "hand-made on cpu" in out
    assert "3 to restore" in out
    assert not job.target.exists()


def test_no_room_is_told_at_once(job):
    code, _, err = ended(job.start("auto", "--set", "cluster.cpus=64"))
    assert code == 5
    assert "no machine of the cluster has 64 CPUs and 0 GPUs for a worker" in err


def test_no_cluster_is_told(job):
    code, _, err = ended(job.start("ray://127.0.0.1:1"))
    assert code == 5
    assert "no cluster at ray://127.0.0.1:1" in err
