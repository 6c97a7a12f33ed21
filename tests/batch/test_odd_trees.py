"""Unusual folders: odd names, loops, pipes, files that appear and vanish."""

import os
import socket
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.identity import IdentityRestorer

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import image_item, plan_batch
from varfix.engine.batch.run import run_batch
from varfix.engine.errors import ExitCode, NothingToDoError, PlanError
from varfix.engine.events import ItemFail, encode
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import OutputSettings, Settings

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names that only Linux allows")


@dataclass
class Tree:
    source: Path
    out: Path
    events: list = field(default_factory=list)

    def draw(self, *names):
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(len(name)).integers(0, 256, (5, 7, 3), np.uint8)
            with path.open("wb") as file:
                Image.fromarray(noise).save(file, "PNG")

    def run(self, settings=None, restorer=None, **request):
        settings = settings or Settings()
        plan = plan_batch(self.source, self.out, BatchRequest(**request), settings, "recipe")
        options = RunOptions("dir", "sha")
        self.events.clear()
        restorer = restorer or IdentityRestorer()
        return run_batch(plan, restorer, settings, self.events.append, options)

    def results(self):
        return {
            path.relative_to(self.out).as_posix()
            for path in self.out.rglob("*")
            if path.is_file() and ".varfix" not in path.parts
        }


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "in").mkdir()
    return Tree(tmp_path / "in", tmp_path / "out")


@LINUX
@pytest.mark.parametrize(
    "name",
    [
        "-rf.png",
        "--help.png",
        "two words.png",
        " leading and trailing .png",
        "line\nbreak.png",
        "tab\t.png",
        "'\"$(x)`;&|*?.png",
        "{dir}{stem}.png",
        "%s%d.png",
        "back\\slash.png",
        "日本 ß é e\u0301.png",
        "\x1b[31mred.png",
        os.fsdecode(b"\xff\xfe\x80.png"),
        "~/x.png",
        "-/-.png",
        "a" * 251 + ".png",
    ],
)
def test_any_name_is_restored_emitted_and_skipped_later(tree, name):
    tree.draw(name)
    assert tree.run().ok == 1
    assert tree.results() == {name}
    assert all(encode(event, "run", datetime.now(UTC)) for event in tree.events)
    again = tree.run()
    assert (again.ok, again.skipped) == (0, 1)


@LINUX
def test_a_result_with_a_too_long_name_fails_alone(tree):
    tree.draw("a" * 251 + ".png", "b.png")
    summary = tree.run(Settings(output=OutputSettings(format="webp")))
    assert (summary.ok, summary.failed) == (1, 1)
    assert tree.results() == {"b.webp"}
    (failed,) = [event for event in tree.events if isinstance(event, ItemFail)]
    assert failed.code == "encode_failed"


@LINUX
def test_names_that_differ_only_in_case_stay_separate(tree):
    tree.draw("Photo.png", "photo.png", "PHOTO.PNG")
    assert tree.run().ok == 3
    assert tree.results() == {"Photo.png", "photo.png", "PHOTO.PNG"}


@LINUX
def test_loops_pipes_sockets_and_dead_links_are_not_entered(tree):
    tree.draw("a.png", "b/c.png")
    (tree.source / "b" / "up").symlink_to(tree.source)
    (tree.source / "self.png").symlink_to("self.png")
    (tree.source / "dead.png").symlink_to("nowhere.png")
    (tree.source / "one").symlink_to("two")
    (tree.source / "two").symlink_to("one")
    os.mkfifo(tree.source / "pipe.png")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(os.fspath(tree.source / "s.png"))
        assert tree.run().ok == 2
    assert tree.results() == {"a.png", "b/c.png"}


@LINUX
@pytest.mark.parametrize("special", ["pipe.png", "self.png"])
def test_a_listed_pipe_or_loop_never_hangs(tree, special):
    tree.draw("a.png")
    os.mkfifo(tree.source / "pipe.png")
    (tree.source / "self.png").symlink_to("self.png")
    summary = tree.run(files=("a.png", special))
    assert summary.ok == 1
    assert tree.results() == {"a.png"}


def test_a_listed_image_that_is_missing_fails_alone(tree):
    tree.draw("a.png", "b.png")
    summary = tree.run(files=("a.png", "gone.png", "b.png"))
    assert (summary.ok, summary.failed, summary.exit_code) == (2, 1, ExitCode.PARTIAL)
    (failed,) = summary.failures
    assert (failed.src, failed.code, failed.retryable) == ("gone.png", "source_read", True)


@dataclass
class Meddler(IdentityRestorer):
    """Does something to the folder as soon as the first image is being restored."""

    deed: object = None

    def restore(self, tiles, prior):
        if self.deed is not None:
            deed, self.deed = self.deed, None
            deed()
        return RestoredTiles(tiles)


def many(tree):
    names = [f"{number:03d}.png" for number in range(40)]
    tree.draw(*names)
    return names


def test_an_image_that_vanishes_during_the_run_fails_alone(tree):
    names = many(tree)
    last = tree.source / names[-1]
    summary = tree.run(restorer=Meddler(deed=last.unlink))
    assert (summary.ok, summary.failed, summary.exit_code) == (39, 1, ExitCode.PARTIAL)
    (failed,) = [event for event in tree.events if isinstance(event, ItemFail)]
    assert (failed.code, failed.retryable) == ("source_read", True)


@LINUX
def test_an_image_that_becomes_a_pipe_during_the_run_does_not_hang_it(tree):
    names = many(tree)
    last = tree.source / names[-1]

    def deed():
        last.unlink()
        os.mkfifo(last)

    summary = tree.run(restorer=Meddler(deed=deed))
    assert (summary.ok, summary.failed) == (39, 1)


def test_an_image_that_is_replaced_during_the_run_is_restored_as_it_is_then(tree):
    names = many(tree)
    last = tree.source / names[-1]
    other = np.full((3, 4, 3), 77, np.uint8)
    summary = tree.run(restorer=Meddler(deed=lambda: Image.fromarray(other).save(last)))
    assert summary.ok == 40
    assert np.array_equal(np.asarray(Image.open(tree.out / names[-1])), other)
    assert tree.run().skipped == 40


@LINUX
def test_a_device_or_pipe_is_never_replaced_by_an_image(tree, tmp_path):
    tree.draw("a.png", "b.png")
    target = tmp_path / "out" / "a.png"
    target.parent.mkdir()
    os.mkfifo(target)
    with pytest.raises(PlanError, match="not an ordinary file"):
        image_item(tree.source / "a.png", target, True, Settings())
    summary = tree.run(overwrite=True)
    assert (summary.ok, summary.failed) == (1, 1)
    assert target.is_fifo()


@LINUX
def test_a_pipe_as_the_only_source_is_named_in_the_error(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(NothingToDoError, match="not an ordinary file"):
        image_item(tmp_path / "a.png", tmp_path / "b.png", False, Settings())
