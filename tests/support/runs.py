"""Runs between two folders, with a model whose work shows."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from support.identity import IdentityRestorer

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.batch.run import run_batch
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import IoSettings, OutputSettings, Settings

SETTINGS = Settings(io=IoSettings(jobs=2))
ORIENTATION, ARTIST = 0x0112, 0x013B


@dataclass
class Inverter(IdentityRestorer):
    """Inverts colors: unlike the identity's, its work shows."""

    def restore(self, tiles, prior):
        return RestoredTiles(1.0 - tiles)


@dataclass
class Setup:
    """A source folder, a destination, and runs between them."""

    source: Path
    out: Path
    events: list = field(default_factory=list)

    def draw(self, *names, **save):
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(sum(name.encode()))
            pixels = rng.integers(0, 256, (9, 14, 3), np.uint8)
            Image.fromarray(pixels).save(path, **save)

    def plan(self, settings=SETTINGS, recipe="recipe", **request):
        return plan_batch(self.source, self.out, BatchRequest(**request), settings, recipe)

    def run(self, restorer=None, settings=SETTINGS, plan=None, options=None, **request):
        self.events.clear()
        plan = plan or self.plan(settings, **request)
        options = options or RunOptions("dir", "sha")
        return run_batch(plan, restorer or Inverter(), settings, self.events.append, options)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def results(self):
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and ".varfix" not in path.parts
        }


def counts(summary):
    return summary.ok, summary.skipped, summary.failed, summary.exit_code


def opened(path):
    return Image.open(io.BytesIO(path.read_bytes()))


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def replace_output(**output):
    return Settings(io=SETTINGS.io, output=OutputSettings(**output))


def uninterrupted(setup, **facts):
    """Return the results of an uninterrupted run of the same sources."""
    other = Setup(setup.source, setup.out.with_name("uninterrupted"))
    other.run(**facts)
    return other.results()
