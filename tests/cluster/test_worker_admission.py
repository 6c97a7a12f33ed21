"""A worker takes part if it has the model, the version and the folders of the run."""

import os
import threading

import pytest
from support.fake_cluster import FakeLoader, FakeTransport, TwoLoaders, warning_codes
from support.runs import counts

from varfix.engine.cluster import pool as pool_module
from varfix.engine.cluster import worker as worker_module
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.errors import (
    DeviceError,
    DeviceUnavailableError,
    ExitCode,
    ModelMissingError,
    OutputDeniedError,
)


def test_a_worker_with_another_model_is_rejected(setup):
    setup.transport = TwoLoaders(FakeLoader(sha256="another"))
    # Which of the two is ready first decides whose model is the run's.
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)
    assert warning_codes(setup) == ["worker_refused"]


def test_a_worker_with_another_version_is_rejected(setup, monkeypatch):
    monkeypatch.setattr(worker_module, "version", lambda name: "9.9")
    with pytest.raises(DeviceError, match=r"has varfix 9\.9, this machine"):
        check_here(setup, monkeypatch)


def check_here(setup, monkeypatch):
    pool = WorkerPool(setup.transport)
    info = pool.open(10)
    monkeypatch.undo()
    error = worker_module.check_worker(info, info)
    assert error is not None
    raise error


def test_a_worker_that_sees_other_folders_is_rejected(setup, monkeypatch):
    """It would write to a disk of its own, where the user would not find the results."""
    real = pool_module._probe_file

    def elsewhere(target):
        return real(type(target)(target.folder.with_name("elsewhere")))

    monkeypatch.setattr(pool_module, "_probe_file", elsewhere)
    setup.out.mkdir()
    original = os.path.isfile
    monkeypatch.setattr(
        os.path,
        "isfile",
        lambda path: "varfix-mark-" not in str(path) and original(path),
    )
    with pytest.raises(OutputDeniedError, match="not the same folder"):
        setup.run_on_cluster()
    assert setup.results() == {}


def missing(warn):
    raise ModelMissingError("nowhere")


def test_a_model_that_no_worker_has_is_an_error_before_the_run(setup):
    setup.transport = FakeTransport(missing)
    with pytest.raises(ModelMissingError, match="nowhere"):
        WorkerPool(setup.transport).open(10)


def test_no_worker_that_is_ready_in_time_is_an_error(setup):
    setup.transport = FakeTransport(lambda warn: threading.Event().wait(5))
    with pytest.raises(DeviceUnavailableError, match="no worker was ready within"):
        WorkerPool(setup.transport).open(0.2)
