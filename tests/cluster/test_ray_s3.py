"""With a failing object store no result is lost: in one process, and on a cluster."""

import signal
import time
from zlib import crc32

import pytest
from support.s3_server import EXPIRED, SERVER_ERROR, s3_in_environment

from varfix.engine.storage.objects import Objects

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here"),
]


class FailingServer:
    """Refuses the first of every seventh request, delays every twentieth, and can expire.

    Attributes:
        published: Paths of the results that were accepted.
        refused: Number of requests that failed with an error of the server.
        limit: Number of results after which the credentials are expired.
    """

    def __init__(self, faults):
        self.published, self.refused, self.limit = set(), 0, None
        faults.refuse, faults.wait = self.refuse, self.wait

    def refuse(self, kind, path, count):
        if self.limit is not None and len(self.published) >= self.limit:
            return EXPIRED
        if count == 1 and crc32(f"{kind} {path}".encode()) % 7 == 0:
            self.refused += 1
            return SERVER_ERROR
        if kind == "PUT" and "/out/" in path and "/.varfix/" not in path:
            self.published.add(path)
        return None

    def wait(self, kind, path, count):
        return 0.5 if count == 1 and crc32(f"{kind} {path}".encode()) % 20 == 1 else 0.0


@pytest.fixture(scope="module")
def s3():
    with s3_in_environment() as server:
        yield server


@pytest.fixture
def remote(s3, job):
    """The job with source and target in a bucket that the machines can reach."""
    import boto3

    s3.faults.calm()
    client = boto3.client("s3")
    name = f"bucket-{job.source.parent.name.replace('_', '-')}"
    client.create_bucket(Bucket=name)
    for path in job.source.rglob("*.png"):
        key = f"in/{path.relative_to(job.source).as_posix()}"
        client.put_object(Bucket=name, Key=key, Body=path.read_bytes())
    s3.faults.calm()
    yield type(job)(f"s3://{name}/in", f"s3://{name}/out", job.log, job.model, job.machines)
    s3.faults.calm()


@pytest.fixture(scope="module")
def machines(s3, machines):
    return machines


def results(job):
    store = Objects(job.target)
    names = [name for name, _ in store.list_objects() if not name.startswith(".varfix/")]
    return dict(zip(names, store.read_all(names), strict=True))


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize("cluster", [None, "auto"], ids=["here", "cluster"])
def test_errors_kills_and_expired_credentials_cost_only_time(remote, local, s3, cluster):
    faulty = FailingServer(s3.faults)
    process = remote.start(cluster)
    if cluster:
        wait_for(faulty, 60, process)
        remote.machines.workers()[0].kill()
    wait_for(faulty, 120, process)
    process.kill()
    process.communicate()

    faulty.limit = 200
    code, out, err = finish(remote.start(cluster))
    assert (code, out) == (6, "")
    assert "the credentials have expired" in err
    assert "renew them and run the same command again" in err
    assert [(end["status"], end["exit"]) for end in remote.events("run.end")] == [("failed", 6)]

    faulty.limit = None
    published = len(faulty.published)
    assert published < 300
    code, out, err = finish(remote.start(cluster))
    assert (code, out) == (0, ""), err
    assert faulty.refused > 50
    s3.faults.calm()
    assert results(remote) == local.results()
    plans = remote.events("plan")
    assert [plan["skip_foreign"] + plan["skip_stale"] for plan in plans] == [0, 0, 0]
    assert plans[2]["skip_done"] == published
    assert [event["code"] for event in remote.events("warning")] == ["worker_lost"] * bool(cluster)
    assert remote.events("item.fail") == []


def wait_for(faulty, count, process):
    while len(faulty.published) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
