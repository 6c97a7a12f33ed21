"""A diagnosis judges the images of a folder, and leaves everything as it was."""

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from support.identity import IdentityRestorer
from support.judging import DARK, HAZY, Judging
from support.runs import SETTINGS, counts

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.diagnosis import JudgingExecutor, check_judges
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_diagnosis
from varfix.engine.batch.run import run_batch
from varfix.engine.errors import ConfigError, DeviceError, ExitCode, NothingToDoError
from varfix.engine.events import ItemFail, ItemJudged, PlanDone, RunEnd, RunStart, Warn
from varfix.engine.storage.scan import Filters


@dataclass
class Watching(Judging):
    """Keeps what it sees."""

    seen: list[tuple] = field(default_factory=list, init=False)

    def prior(self, prior_input):
        self.seen.append((prior_input.thumbnail.copy(), prior_input.task))
        return super().prior(prior_input)

    def restore(self, tiles, prior):
        raise AssertionError("nothing is to be restored")


def diagnose(setup, restorer, **request):
    setup.events.clear()
    plan = plan_diagnosis(setup.source, BatchRequest(**request))
    options = RunOptions("diagnose", "sha", executor=JudgingExecutor(restorer))
    return run_batch(plan, restorer, SETTINGS, setup.events.append, options)


def tree(folder):
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_every_image_is_judged_and_nothing_is_written(setup, tmp_path):
    setup.draw("a.png", "b/c.jpg", "d.webp")
    before = tree(tmp_path)
    assert counts(diagnose(setup, Watching(given=(HAZY, DARK, DARK)))) == (3, 0, 0, ExitCode.OK)
    assert tree(tmp_path) == before
    judged = setup.of(ItemJudged)
    assert [event.src for event in judged] == ["a.png", "b/c.jpg", "d.webp"]
    assert [event.applied for event in judged] == [("haze",), ("noise",), ("noise",)]
    assert judged[0].found == {"haze": 0.93, "noise": 0.41}
    assert (judged[0].width, judged[0].height) == (14, 9)
    assert judged[0].seconds == pytest.approx(sum(judged[0].stage.values()), abs=2e-4)
    assert [type(event) for event in setup.events[:2]] == [RunStart, PlanDone]
    (end,) = setup.of(RunEnd)
    assert (end.ok, end.applied) == (3, {"noise": 2, "haze": 1})


def test_the_model_sees_the_thumbnail_that_a_run_shows_it(setup):
    setup.draw("a.png")
    looking, running = Watching(), Judging()
    diagnose(setup, looking)
    ((seen, task),) = looking.seen
    assert task == "auto"
    pixels = np.asarray(Image.open(setup.source / "a.png"), np.float32) / 255
    assert seen.shape == (32, 32, 3)
    np.testing.assert_allclose(seen.mean((0, 1)), pixels.mean((0, 1)), atol=0.01)
    setup.run(running)
    assert running.calls == looking.calls == 1


def test_what_cannot_be_read_is_listed_and_costs_one_image(setup):
    setup.draw("a.png", "c.png")
    (setup.source / "b.png").touch()
    (setup.source / "sub").mkdir()
    data = io.BytesIO()
    Image.new("RGB", (90, 90)).save(data, "JPEG")
    (setup.source / "sub" / "d.jpg").write_bytes(data.getvalue()[:-200])
    assert counts(diagnose(setup, Judging())) == (2, 0, 2, ExitCode.PARTIAL)
    failed = {event.src: event for event in setup.of(ItemFail)}
    assert (failed["b.png"].code, failed["sub/d.jpg"].code) == ("decode_empty", "decode_truncated")
    assert failed["sub/d.jpg"].message.startswith(f"{setup.source / 'sub' / 'd.jpg'}: ")


def test_only_selected_images_are_judged(setup):
    setup.draw("a.png", "b.png", "c/d.png")
    (setup.source / "clip.mp4").write_bytes(b"x")
    diagnose(setup, Judging(), filters=Filters(include=("b.png", "*.mp4"), exclude=()))
    assert [event.src for event in setup.of(ItemJudged)] == ["b.png"]
    diagnose(setup, Judging(), files=("c/d.png", "a.png"), sample=1)
    assert len(setup.of(ItemJudged)) == 1
    assert not setup.of(Warn)


def test_a_folder_without_images_is_nothing_to_do(setup):
    (setup.source / "clip.mp4").write_bytes(b"x")
    with pytest.raises(NothingToDoError, match="1 file ignored"):
        plan_diagnosis(setup.source, BatchRequest())
    with pytest.raises(NothingToDoError, match="no such folder"):
        plan_diagnosis(setup.source / "no", BatchRequest())


def test_a_device_that_fails_ends_the_run(setup):
    class Broken(Judging):
        def prior(self, prior_input):
            raise DeviceError("cuda:0 failed")

    setup.draw("a.png", "b.png")
    with pytest.raises(DeviceError, match="cuda:0"):
        diagnose(setup, Broken())
    assert setup.of(RunEnd)[0].status == "failed"


def test_a_model_that_judges_nothing_is_refused():
    check_judges(Judging())
    with pytest.raises(ConfigError, match="identity does not judge images"):
        check_judges(IdentityRestorer())
