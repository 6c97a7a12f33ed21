"""What every place does alike: a folder, fsspec's memory, S3 (engine/storage/store.py)."""

import pickle
from dataclasses import replace

import pytest
from support.storage_runs import admit, image, planned, restore, states

from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeUnknownError,
    OutputLockedError,
    PlanError,
    SourceReadError,
)
from varfix.engine.settings.types import OutputSettings, Settings
from varfix.engine.storage.identity import UNKNOWN
from varfix.engine.storage.manifest import image_entry
from varfix.engine.storage.scan import Filters

HARD = ["with space.png", "a#b?c%20d&e+f=g.png", "d'é漢字/Ünï.png", "10% [x] {y}*.png", "a::b.png"]


class Killed(BaseException):
    """Ends a run as a signal would: nothing handles it."""


def test_images_are_found_in_natural_order_and_nothing_else(places):
    for name in ("b10.png", "b9.jpg", "sub/c.webp", "notes.txt"):
        places.put(name, b"x")
    for name in (".hidden.png", ".git/a.png", "Thumbs.db", "__MACOSX/a.png", "clip.varfix/a.png"):
        places.put(name, b"x")
    found = places.source.find(Filters(), None, places.target)
    assert found.sources == ["b9.jpg", "b10.png", "sub/c.webp"]
    assert found.ignored == ["notes.txt"]


def test_filters_follow_the_rules_of_gitignore(places):
    for name in ("a.png", "raw/b.png", "deep/raw/c.png", "deep/d.jpg"):
        places.put(name, b"x")

    def found(**filters):
        return places.source.find(Filters(**filters), None, places.target).sources

    assert found(exclude=("raw/",)) == ["a.png", "deep/d.jpg"]
    assert found(include=("*.jpg",)) == ["deep/d.jpg"]
    assert found(recursive=False) == ["a.png"]


def test_results_inside_the_source_are_no_sources(places):
    places.put("a.png", b"x")
    places.put("outer.png", b"x")
    places.put("out/b.png", b"x")
    inner = places.at("source", "out")
    assert places.source.find(Filters(), None, inner).sources == ["a.png", "outer.png"]


@pytest.mark.parametrize("name", HARD)
def test_any_name_is_read_and_written_as_it_is(places, name):
    places.put(name, image(9))
    plan = planned(places)
    restore(plan)
    assert places.get(name) == image(9) + b"restored"
    assert states(planned(places)) == {name: "done"}


def test_listed_names_are_taken_without_a_search(places):
    for name in ("a.png", "b.png", "sub/c.png"):
        places.put(name, image())
    plan = planned(places, files=("sub/c.png", "a.png", "./a.png", "gone.png"))
    assert [item.source.name for item in plan.items] == ["sub/c.png", "a.png", "gone.png"]
    restore(replace(plan, items=plan.items[:2]))
    again = planned(places, files=("sub/c.png", "b.png"))
    assert states(again) == {"sub/c.png": "done", "b.png": "todo"}
    with pytest.raises(PlanError):
        planned(places, files=("../a.png",))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(exclude=("sub/",)), ["c.jpg", "a.png", ".b.png"]),
        (Filters(include=("*.png",)), ["sub/d.png", "a.png", ".b.png"]),
        (Filters(include=("*.png",), exclude=("a.*",)), ["sub/d.png", ".b.png"]),
        (Filters(recursive=False), ["c.jpg", "a.png", ".b.png"]),
    ],
    ids=["exclude", "include", "both", "not recursive"],
)
def test_filters_also_apply_to_listed_names(places, filters, expected):
    listed = ("sub/d.png", "c.jpg", "a.png", ".b.png")
    for name in listed:
        places.put(name, image())
    plan = planned(places, files=listed, filters=filters)
    assert [item.source.name for item in plan.items] == expected
    assert set(plan.found.ignored) == set(listed) - set(expected)


def test_a_file_that_is_gone_empty_or_no_image_costs_itself_alone(places):
    places.put("empty.png", b"")
    places.put("gone.png", image())
    places.put("text.png", b"hello, world")
    plan = planned(places)
    places.remove("gone.png", "source")
    errors = {"empty.png": DecodeEmptyError, "gone.png": SourceReadError}
    errors["text.png"] = DecodeUnknownError
    assert {item.source.name for item in plan.items} == set(errors)
    for item in plan.items:
        with pytest.raises(errors[item.source.name]):
            plan.source.fetch(item.source.name, UNKNOWN, admit)


def test_an_image_can_be_refused_for_its_header(places):
    places.put("a.png", image(size=(8, 4)))
    (item,) = planned(places).items

    def refuse(header):
        raise MemoryError(header.width, header.height)

    with pytest.raises(MemoryError) as refused:
        places.source.fetch(item.source.name, UNKNOWN, refuse)
    assert refused.value.args == (8, 4)


def test_done_stale_foreign_and_missing(places):
    for name in ("done.png", "other.png", "mine.png", "lost.png"):
        places.put(name, image(len(name)))
    places.put("mine.png", b"somebody's own", "target")
    restore(planned(places))
    assert places.get("mine.png") == b"somebody's own"
    places.put("other.png", image(77, size=(6, 3)))
    places.remove("lost.png")
    expected = {"done.png": "done", "other.png": "stale", "mine.png": "foreign"}
    assert states(planned(places)) == {**expected, "lost.png": "todo"}
    assert set(states(planned(places, recipe="another")).values()) == {"stale", "foreign", "todo"}


def test_overwriting_makes_again_all_but_what_is_done(places):
    for name in ("a.png", "b.png", "c.png"):
        places.put(name, image())
    places.put("c.png", b"somebody's own", "target")
    restore(planned(places))
    places.put("b.png", image(99, size=(7, 7)))
    again = planned(places, overwrite=True)
    assert states(again) == {"a.png": "done", "b.png": "todo", "c.png": "todo"}
    restore(again)
    assert places.get("b.png") == image(99, size=(7, 7)) + b"restored"
    assert places.get("c.png") == image() + b"restored"
    assert set(states(planned(places)).values()) == {"done"}


def test_a_run_killed_at_any_moment_is_continued_rightly(places):
    """Before the result came it is missing; as soon as it is there it is known."""
    for name in ("a.png", "b.png"):
        places.put(name, image())
    plan = planned(places)

    def kill(item):
        raise Killed

    with pytest.raises(Killed):
        restore(plan, note=kill)  # published, but nothing is confirmed or closed
    later = planned(places)
    assert states(later) == {"a.png": "done", "b.png": "todo"}
    (item,) = later.items
    entry = image_entry(
        item.target.name,
        item.source.name,
        later.source.fetch(item.source.name, UNKNOWN, admit).stat,
        "recipe",
        b"new",
    )
    with pytest.raises(Killed), later.manifest.recording(entry, replaces=False):
        raise Killed  # entered, but never published
    assert states(planned(places)) == {"a.png": "done", "b.png": "todo"}
    plan.manifest.close()
    later.manifest.close()


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def test_a_pickled_place_is_the_same_place(places):
    places.put("a.png", image())
    plan = planned(places)
    (item,) = plan.items
    source, target = pickled((plan.source, plan.target))
    data = source.fetch(item.source.name, UNKNOWN, admit).data
    target.publish(item.target.name, data, overwrite=False)
    assert places.get("a.png") == image()


def test_one_run_at_a_time(places):
    places.put("a.png", image())
    first, second = planned(places), planned(places)
    with first.lock(), pytest.raises(OutputLockedError), second.lock():
        pass
    with second.lock():
        pass


def test_sources_that_lie_in_the_destination_are_not_replaced(places):
    """Results would be named `in/a.png` there."""
    places.put("in/a.png", image(), "source")
    below = places.at("source", "in")
    plan = plan_batch(below, places.source, BatchRequest(name="in/{stem}{ext}"), Settings(), "r")
    assert states(plan) == {"a.png": "foreign"}
    places.put("in/b.png", image(), "source")
    with pytest.raises(PlanError):
        plan_batch(
            below, places.source, BatchRequest(name="in/b.png", overwrite=True), Settings(), "r"
        )


def test_in_place_is_refused(places):
    places.put("a.png", image())
    with pytest.raises(PlanError, match="also the source"):
        plan_batch(places.source, places.source, BatchRequest(), Settings(), "r")


def test_transparency_that_would_be_lost_is_refused_somewhere(places):
    """On a disk before any work, in a store where every look costs a request when it is read."""
    from varfix.engine.batch.output_format import check_fetched
    from varfix.engine.errors import AlphaLostError

    places.put("a.png", image(mode="RGBA"))
    jpeg = Settings(output=OutputSettings(format="jpg"))
    with pytest.raises(AlphaLostError):
        (item,) = planned(places, jpeg).items
        check_fetched(item, places.source.fetch(item.source.name, UNKNOWN, admit), jpeg)
