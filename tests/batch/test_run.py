"""A run restores every readable image, independently of the others."""

import io

import numpy as np
from PIL import Image, ImageOps
from support.identity import IdentityRestorer
from support.runs import ARTIST, ORIENTATION, SETTINGS, counts, opened, pixels_of, replace_output

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import plan_single
from varfix.engine.batch.planner import image_item
from varfix.engine.errors import ExitCode
from varfix.engine.events import ItemFail


def test_every_image_is_restored_under_its_name(setup):
    setup.draw("a.png", "b/c.png", "b/d.bmp")
    assert counts(setup.run()) == (3, 0, 0, ExitCode.OK)
    results = setup.results()
    assert sorted(results) == ["a.png", "b/c.png", "b/d.bmp"]
    for name, data in results.items():
        source = pixels_of((setup.source / name).read_bytes())
        assert np.array_equal(pixels_of(data), 255 - source)


def test_inputs_are_never_changed(setup):
    setup.draw("a.png", "b/c.jpg")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in setup.source.rglob("*.*")}
    setup.run()
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}


def test_a_corrupt_file_fails_alone_with_exit_code_1(setup):
    setup.draw("a.png", "b.jpg", "d.png")
    data = (setup.source / "b.jpg").read_bytes()
    (setup.source / "b.jpg").write_bytes(data[: len(data) // 2])
    (setup.source / "c.jpg").write_bytes(b"")
    (setup.source / "e.png").write_bytes(b"just text")
    summary = setup.run()
    assert counts(summary) == (2, 0, 3, ExitCode.PARTIAL)
    assert sorted(setup.results()) == ["a.png", "d.png"]
    codes = {event.src: event.code for event in summary.failures}
    assert codes == {
        "b.jpg": "decode_truncated",
        "c.jpg": "decode_empty",
        "e.png": "decode_unknown",
    }
    for event in summary.failures:
        assert event.message.startswith(f"{setup.source / event.src}: ")
    assert setup.of(ItemFail) == list(summary.failures)


def test_failed_images_are_retried_and_finished_ones_are_not(setup):
    setup.draw("a.png", "b.png")
    good = (setup.source / "b.png").read_bytes()
    (setup.source / "b.png").write_bytes(good[:40])
    assert counts(setup.run()) == (1, 0, 1, ExitCode.PARTIAL)
    assert counts(setup.run()) == (0, 1, 1, ExitCode.PARTIAL)
    (setup.source / "b.png").write_bytes(good)
    assert counts(setup.run()) == (1, 1, 0, ExitCode.OK)


def test_each_image_keeps_its_metadata_and_orientation(setup):
    names = ["a.jpg", "b.jpg", "c.jpg", "d.png"]
    for turn, name in enumerate(names, 5):
        exif = Image.Exif()
        exif[ORIENTATION], exif[ARTIST] = turn, f"artist of {name}"
        setup.draw(name, exif=exif)
    assert setup.run(IdentityRestorer()).ok == 4
    for name, data in setup.results().items():
        exif = Image.open(io.BytesIO(data)).getexif()
        assert exif[ARTIST] == f"artist of {name}"
        assert exif.get(ORIENTATION, 1) == 1
        upright = ImageOps.exif_transpose(opened(setup.source / name))
        assert Image.open(io.BytesIO(data)).size == upright.size
    png = np.asarray(ImageOps.exif_transpose(opened(setup.source / "d.png")))
    assert np.array_equal(pixels_of(setup.results()["d.png"]), png)


def test_equal_stems_and_equal_names_have_separate_results(setup):
    setup.draw("a.png", "a.jpg", "x/a.png", "y/a.png")
    settings = replace_output(format="png")
    assert setup.run(settings=settings).ok == 4
    assert sorted(setup.results()) == ["a.png", "a.png.png", "x/a.png", "y/a.png"]
    assert len(set(setup.results().values())) == 4


def test_names_that_collide_across_folders_are_kept_apart_and_no_input_is_lost(setup):
    setup.draw("a/x.png", "b/x.png")
    assert setup.run(name="{stem}{ext}").ok == 2
    assert len(set(setup.results().values())) == 2
    assert (setup.source / "a" / "x.png").exists() and (setup.source / "b" / "x.png").exists()
    assert counts(setup.run(name="{stem}{ext}")) == (0, 2, 0, ExitCode.OK)


def test_a_single_file_is_restored_without_a_manifest(setup, tmp_path):
    setup.draw("a.png")
    target = tmp_path / "new" / "b.jpg"
    item = image_item(setup.source / "a.png", target, False, SETTINGS)
    plan = plan_single(item, "fingerprint")
    assert counts(setup.run(plan=plan, options=RunOptions("image", "sha"))) == (
        1,
        0,
        0,
        ExitCode.OK,
    )
    assert opened(target).format == "JPEG"
    assert sorted(path.name for path in target.parent.iterdir()) == ["b.jpg"]
