"""Images in flight take a share of the memory that is really there."""

from types import SimpleNamespace

import psutil
import pytest

from varfix.engine.batch.item import memory_of
from varfix.engine.batch.pipeline import ByteBudget
from varfix.engine.batch.processor import queue_of
from varfix.engine.formats import Header
from varfix.engine.settings.types import IoSettings, Settings
from varfix.engine.system import memory
from varfix.engine.system.memory import available_memory, default_queue_bytes

MIB = 1 << 20
PHOTO = Header("jpeg", 6000, 4000, has_alpha=False, depth=8)  # 24 MP


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend to have so many MiB free, and a container's limit and use if given."""

    def pretend(free, limit=None, used="0"):
        there = SimpleNamespace(available=free * MIB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
        places = tmp_path / "max", tmp_path / "current"
        if limit is not None:
            places[0].write_text(limit)
            places[1].write_text(used)
        monkeypatch.setattr(memory, "_GROUPS", (places,))

    return pretend


@pytest.mark.parametrize(
    ("free", "queue"), [(100, 512), (2048, 512), (4096, 1024), (8192, 2048), (65536, 4096)]
)
def test_the_queue_is_a_quarter_of_what_is_free_within_bounds(machine, free, queue):
    machine(free)
    assert default_queue_bytes() == queue * MIB


def test_a_containers_limit_counts(machine):
    machine(64000, str(3000 * MIB), str(1000 * MIB))
    assert available_memory() == 2000 * MIB
    machine(64000, "max")
    assert available_memory() == 64000 * MIB
    machine(64000, str(MIB), str(2 * MIB))
    assert available_memory() == 0


def test_photographs_overlap_by_default(machine):
    machine(8192)
    assert Settings().io.queue_mb is None
    budget = ByteBudget(queue_of(Settings()))
    assert [budget.reserve(memory_of(PHOTO)) for _ in range(3)] == [True, True, False]


def test_a_number_that_was_asked_for_is_taken(machine):
    machine(8192)
    assert queue_of(Settings(io=IoSettings(queue_mb=7))) == 7 * MIB
