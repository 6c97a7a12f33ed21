"""A run on a Ray cluster ends as in one process, whatever processes are killed."""

import re
import signal

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here"),
]


def finish(process, seconds=300):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def assert_equal_results(job, local):
    assert job.results() == local.results()
    assert job.entries() == local.entries()


@pytest.mark.parametrize("way", ["auto", "client"])
def test_results_are_those_of_a_run_in_one_process(job, local, way):
    process = job.start("auto" if way == "auto" else job.machines.client)
    code, out, err = finish(process)
    assert (code, out) == (0, ""), err
    assert_equal_results(job, local)
    assert len(job.events("item.done")) == 300
    # No messages of Ray.
    lines = [line for line in err.splitlines() if not re.match(r"\[ *\d+/300\] ", line)]
    words = ["Connecting", "Starting", "Scanning", "varfix", "300 restored in"]
    assert [line for line in lines if not line.startswith(tuple(words))] == []
    assert lines[-1].startswith("300 restored in ")


def test_no_result_is_lost_when_workers_and_the_run_are_killed(job, local):
    process = job.start()
    job.wait_until(60, process)
    victim = job.machines.workers()[0]
    victim.kill()
    job.wait_until(160, process)
    process.kill()
    process.communicate()
    killed_at = len(job.results())
    assert killed_at < 300
    assert [event["code"] for event in job.events("warning")] == ["worker_lost"]
    (warning,) = job.events("warning")
    assert f":{victim.pid} was lost (its process died)" in warning["message"]

    code, out, _ = finish(job.start())
    assert (code, out) == (0, "")
    assert_equal_results(job, local)
    (plan,) = job.events("plan")[1:]
    assert plan["skip_foreign"] == plan["skip_stale"] == 0
    assert plan["skip_done"] >= killed_at
    assert plan["skip_done"] + len(of_run(job, 1, "item.done")) == 300
    # No result that was reported is made again.
    assert not finished(job, 0) & {event["src"] for event in of_run(job, 1, "item.start")}


def finished(job, number):
    names = {event["id"]: event["src"] for event in of_run(job, number, "item.start")}
    return {names[event["id"]] for event in of_run(job, number, "item.done")}


def of_run(job, number, kind):
    runs = list(dict.fromkeys(event["run"] for event in job.events("run.start")))
    return [event for event in job.events(kind) if event["run"] == runs[number]]


def test_workers_of_a_killed_client_write_nothing_more(job, local):
    process = job.start(job.machines.client)
    job.wait_until(60, process)
    process.kill()
    process.communicate()
    code, _, err = finish(job.start(job.machines.client))
    assert code == 0, err
    assert_equal_results(job, local)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run(job, local, number):
    process = job.start()
    job.wait_until(30, process)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == ({signal.SIGINT: 130, signal.SIGTERM: 143}[number], "")
    assert "Stopping after the current image." in err
    made = len(job.results())
    assert 30 <= made < 300
    assert len(job.entries()) == made
    assert finish(job.start())[0] == 0
    assert_equal_results(job, local)


def test_a_dry_run_shows_the_model_of_a_worker(job):
    code, out, err = finish(job.start("auto", "-n", "--sample", "3"))
    assert code == 0, err
    assert "halving on cpu" in out or "hand-made on cpu" in out
    assert "3 to restore" in out
    assert not job.target.exists()


def test_too_few_resources_are_an_error_at_once(job):
    code, _, err = finish(job.start("auto", "--set", "cluster.cpus=64"))
    assert code == 5
    assert "no machine of the cluster has 64 CPUs and 0 GPUs for a worker" in err


def test_a_missing_cluster_is_an_error(job):
    code, _, err = finish(job.start("ray://127.0.0.1:1"))
    assert code == 5
    assert "no cluster at ray://127.0.0.1:1" in err
