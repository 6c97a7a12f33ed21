"""A clip passes through four packages of the engine, and no package hands it back."""

import sys
from collections import defaultdict
from inspect import CO_OPTIMIZED

from support.identity import IdentityRestorer

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.item import VideoPart
from varfix.engine.batch.plan import plan_single
from varfix.engine.batch.plan_clip import clip_item
from varfix.engine.batch.run import run_batch
from varfix.engine.settings.types import Settings, VideoSettings
from varfix.engine.storage.result_history import ResultHistory
from varfix.engine.video.clip import WHOLE
from varfix.engine.video.probe import probe_for

PACKAGES = ("batch", "image", "restoration", "storage", "video")
VALUES = ("__init__", "pixels_in")
SETTINGS = Settings(video=VideoSettings(codec="ffv1", deflicker_window=0))


def calls_between_packages(work):
    """Return caller, callee and function of the calls from package to package on this thread."""
    calls, inside = [], ["batch"]

    def note(frame, event, _):
        if event == "call":
            words = frame.f_globals.get("__name__", "").split(".")
            is_function = bool(frame.f_code.co_flags & CO_OPTIMIZED)  # not the body of a class
            is_counted = words[:2] == ["varfix", "engine"] and words[2] in PACKAGES and is_function
            package = words[2] if is_counted else inside[-1]
            if package != inside[-1]:
                calls.append((inside[-1], package, frame.f_code.co_name))
            inside.append(package)
        elif event == "return":
            inside.pop()

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_a_clip_enters_four_packages_none_twice(film, tmp_path):
    source, target = film("a.mkv", count=4), tmp_path / "b.mkv"
    item = clip_item(source, target, VideoPart(probe_for(source, SETTINGS), WHOLE), True)
    options = RunOptions("video", "sha", history=ResultHistory(tmp_path / "history"))

    def run():
        plan = plan_single(item, "fingerprint")
        run_batch(plan, IdentityRestorer(), SETTINGS, lambda event: None, options)

    run()  # modules are loaded
    functions = defaultdict(list)
    for caller, callee, function in calls_between_packages(run):
        functions[caller, callee].append(function)
    assert {callee for _, callee in functions} == {"batch", "video", "restoration", "storage"}
    assert {caller for caller, _ in functions} == {"batch", "video"}
    # Besides making and measuring values, the run calls the video package once.
    assert [name for name in functions["batch", "video"] if name not in VALUES] == ["restore_clip"]
    # The video package calls only what the run has passed to it.
    assert set(functions["video", "batch"]) == {"is_stopping", "report", "publish"}
