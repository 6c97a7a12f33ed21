"""A video on a cluster: one worker restores it; its finished segments outlive the worker."""

from support.fake_cluster import FakeLoader, FakeTransport
from support.identity import IdentityRestorer

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.item import VideoPart
from varfix.engine.batch.plan import plan_single
from varfix.engine.batch.plan_clip import choose_target, clip_item
from varfix.engine.batch.run import run_batch
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.errors import ExitCode
from varfix.engine.events import Warn
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.video.probe import probe_for

from .conftest import images, settings_for

FRAMES, LOST_AT = 23, 14
VIDEO = {"segment_seconds": 0.2}


class KillingModel(IdentityRestorer):
    """Darkens frames; its worker is killed at one of them."""

    transport: FakeTransport
    seen: list

    def restore(self, tiles, prior):
        self.seen.append(self)
        if len(self.seen) == LOST_AT:
            self.transport.kill(self.transport.number_of(self), seconds=0.5)
            raise RuntimeError("does not reach the run")
        return RestoredTiles(tiles * 0.75)


def killing_model(seen, transport=None):
    model = KillingModel()
    model.seen, model.transport = seen, transport
    return model


def test_a_new_worker_resumes_the_segments_of_a_lost_one(film, restore, tmp_path):
    source = film("clip.mkv", count=FRAMES, options={"g": "7"}, times=None)
    whole = restore(source, tmp_path / "whole.mkv", restorer=killing_model([None] * 99), **VIDEO)

    seen, events, transport = [], [], FakeTransport(wanted=1)
    transport.loader = FakeLoader(lambda: killing_model(seen, transport))
    settings = settings_for(**VIDEO)
    clip = probe_for(source, settings)
    chosen = choose_target(source, tmp_path / "cluster.mkv", clip, settings)
    item = clip_item(source, chosen.path, VideoPart(clip), False)
    plan = plan_single(item, "fingerprint")
    pool = WorkerPool(transport)
    pool.open(10)
    options = RunOptions("video", "sha", executor=pool)
    summary = run_batch(plan, IdentityRestorer(), settings, events.append, options)

    assert summary.exit_code is ExitCode.OK
    assert [event.code for event in events if isinstance(event, Warn)] == ["worker_lost"]
    assert chosen.path.read_bytes() == whole.path.read_bytes()
    assert images(chosen.path) != images(source)
    again = len(seen) - LOST_AT
    assert 0 < again < FRAMES
