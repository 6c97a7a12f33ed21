"""A repeated run restores what is missing, and nothing twice."""

import os

import numpy as np
from support.identity import IdentityRestorer
from support.runs import counts, pixels_of, replace_output

from varfix.engine.errors import ExitCode
from varfix.engine.events import ItemSkip, ItemStart, PlanDone, Warn


def test_a_repeated_run_skips_what_is_done(setup):
    setup.draw("a.png", "b/c.png")
    setup.run()
    before = setup.results()
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert [(e.src, e.reason) for e in setup.of(ItemSkip)] == [
        ("a.png", "done"),
        ("b/c.png", "done"),
    ]
    assert setup.results() == before
    (plan,) = setup.of(PlanDone)
    assert (plan.items, plan.skip_done, plan.skip_stale, plan.skip_foreign) == (0, 2, 0, 0)


def test_a_new_image_is_all_that_a_repeated_run_restores(setup):
    setup.draw("a.png")
    setup.run()
    setup.draw("b.png")
    assert counts(setup.run()) == (1, 1, 0, ExitCode.OK)
    assert [event.src for event in setup.of(ItemStart)] == ["b.png"]


def test_other_settings_make_results_stale_until_overwrite(setup):
    setup.draw("a.png", "b.png")
    setup.run()
    before = setup.results()
    summary = setup.run(IdentityRestorer(), plan=setup.plan(recipe="other"))
    assert counts(summary) == (0, 2, 0, ExitCode.OK)
    assert [event.code for event in setup.of(Warn)] == ["stale_outputs"]
    assert setup.of(Warn)[0].message.startswith("2 outputs were made with other settings")
    assert setup.of(PlanDone)[0].skip_stale == 2
    assert setup.results() == before
    plan = setup.plan(recipe="other", overwrite=True)
    assert counts(setup.run(IdentityRestorer(), plan=plan)) == (2, 0, 0, ExitCode.OK)
    assert setup.results() != before
    assert setup.plan(recipe="other").skipped("done") == 2


def test_a_changed_source_makes_its_result_stale(setup):
    setup.draw("a.png", "b.png")
    setup.run()
    os.utime(setup.source / "b.png", (1, 1))
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert [event.reason for event in setup.of(ItemSkip)] == ["done", "stale"]
    assert counts(setup.run(overwrite=True)) == (1, 1, 0, ExitCode.OK)


def test_a_lost_or_truncated_result_is_made_again(setup):
    setup.draw("a.png", "b.png", "c.png")
    setup.run()
    before = setup.results()
    (setup.out / "a.png").unlink()
    (setup.out / "b.png").write_bytes(before["b.png"][:50])
    assert counts(setup.run()) == (2, 1, 0, ExitCode.OK)
    assert setup.results() == before


def test_foreign_files_are_replaced_only_with_overwrite(setup):
    setup.draw("a.png")
    setup.out.mkdir()
    (setup.out / "a.png").write_bytes(b"mine")
    assert counts(setup.run()) == (0, 1, 0, ExitCode.OK)
    assert [event.code for event in setup.of(Warn)] == ["foreign_outputs"]
    assert setup.of(PlanDone)[0].skip_foreign == 1
    assert setup.results() == {"a.png": b"mine"}
    assert counts(setup.run(overwrite=True)) == (1, 0, 0, ExitCode.OK)
    assert setup.results() != {"a.png": b"mine"}


def test_a_destination_inside_the_source_is_not_restored_again(setup):
    setup.draw("a.png", "b/c.png")
    setup.out = setup.source / "out"
    assert setup.run().ok == 2
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert sorted(setup.results()) == ["a.png", "b/c.png"]


def test_in_place_nothing_is_restored_twice(setup):
    setup.draw("a.png", "b/c.png")
    setup.out = setup.source
    originals = setup.results()
    assert setup.run(overwrite=True).ok == 2
    once = setup.results()
    assert once != originals
    assert counts(setup.run(overwrite=True)) == (0, 2, 0, ExitCode.OK)
    assert setup.results() == once
    setup.draw("new.png")
    assert counts(setup.run(overwrite=True)) == (1, 2, 0, ExitCode.OK)


def test_in_place_results_in_another_format_are_not_sources(setup):
    setup.draw("a.jpg", "a.png")
    setup.out = setup.source
    originals = setup.results()
    settings = replace_output(format="png")
    assert setup.run(settings=settings, overwrite=True).ok == 2
    once = setup.results()
    assert sorted(once) == ["a.jpg", "a.jpg.png", "a.png"]
    assert once["a.jpg"] == originals["a.jpg"]
    assert np.array_equal(pixels_of(once["a.png"]), 255 - pixels_of(originals["a.png"]))
    assert counts(setup.run(settings=settings, overwrite=True)) == (0, 2, 0, ExitCode.OK)
    assert setup.results() == once
