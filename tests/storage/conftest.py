"""Places of every kind: a folder, fsspec's memory, and a bucket on an S3 server of this machine."""

import itertools
from pathlib import Path

import pytest

from varfix.engine.storage.open import open_store, store_of

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from support.s3_server import s3_in_environment
from support.storage_runs import Places

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3():
    """A server that the whole session shares; new buckets keep the tests apart."""
    with s3_in_environment() as server:
        yield server


@pytest.fixture
def bucket(s3):
    """The address of an empty bucket."""
    import boto3

    s3.faults.calm()
    name = f"bucket-{next(_numbers)}"
    boto3.client("s3").create_bucket(Bucket=name)
    s3.faults.calm()
    yield f"s3://{name}"
    s3.faults.calm()


@pytest.fixture(params=["folder", "memory", "s3"])
def places(request, tmp_path) -> Places:
    if request.param == "folder":
        (tmp_path / "in").mkdir()
        return Places(store_of(Path(tmp_path, "in")), store_of(Path(tmp_path, "out")))
    if request.param == "memory":
        root = f"memory://{tmp_path.name}"
    else:
        root = request.getfixturevalue("bucket")
    return Places(open_store(f"{root}/in"), open_store(f"{root}/out"))
