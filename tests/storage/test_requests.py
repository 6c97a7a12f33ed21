"""How little is asked of a store, and that what is not asked is known all the same."""

import pytest
from support.storage_runs import Places, image, planned, restore, states

from varfix.engine.storage import object_manifest as store_memory
from varfix.engine.storage.object_manifest import JOURNAL, ObjectManifest
from varfix.engine.storage.open import open_store


@pytest.fixture
def places(bucket):
    return Places(open_store(f"{bucket}/in"), open_store(f"{bucket}/out"))


def asked(s3, *kinds):
    return {kind: s3.faults.asked[kind] for kind in kinds}


def test_a_run_asks_once_for_each_source_and_puts_each_result_once(places, s3):
    names = [f"{number}.png" for number in range(20)]
    for name in names:
        places.put(name, image())
    s3.faults.asked.clear()
    plan = planned(places)
    assert asked(s3, "LIST", "GET", "HEAD", "PUT") == {"LIST": 3, "GET": 0, "HEAD": 0, "PUT": 0}
    restore(plan)
    assert s3.faults.asked["HEAD"] == 0
    bucket = places.source._objects.root.removesuffix("/in")
    for name in names:
        assert s3.faults.asked["GET", f"/{bucket}/in/{name}"] == 1
        assert s3.faults.asked["PUT", f"/{bucket}/out/{name}"] == 1
    journal = [
        number
        for key, number in s3.faults.asked.items()
        if isinstance(key, tuple) and key[0] == "PUT" and JOURNAL in key[1]
    ]
    assert sum(journal) == len(names) + 1  # each result is entered before it is put


def test_a_resumed_run_requests_nothing_twice(places, s3):
    for number in range(20):
        places.put(f"{number}.png", image())
    restore(planned(places))
    s3.faults.asked.clear()
    assert set(states(planned(places)).values()) == {"done"}
    assert asked(s3, "LIST", "GET", "HEAD", "PUT") == {"LIST": 3, "GET": 1, "HEAD": 0, "PUT": 0}


def test_a_large_destination_is_not_listed_again(places, s3, monkeypatch):
    for number in range(6):
        places.put(f"{number}.png", image())
    restore(planned(places))
    monkeypatch.setattr(store_memory, "MAX_LISTED", 3)
    places.put("new.png", image())
    places.put("stranger.png", image())
    places.put("stranger.png", b"somebody's own", "target")
    plan = planned(places)
    assert plan.manifest._sizes is None
    assert sorted(item.source.name for item in plan.items) == ["new.png", "stranger.png"]
    with pytest.raises(Exception, match="another program has written"):
        restore(plan)
    assert places.get("stranger.png") == b"somebody's own"


def test_listed_names_cost_one_question_each_where_a_result_is_known(places, s3):
    for number in range(6):
        places.put(f"{number}.png", image())
    restore(planned(places))
    s3.faults.asked.clear()
    assert states(planned(places, files=("1.png", "2.png"))) == {"1.png": "done", "2.png": "done"}
    assert asked(s3, "HEAD", "LIST") == {"HEAD": 2, "LIST": 2}


def test_scattered_records_are_put_together_and_nothing_is_lost(places, monkeypatch):
    for number in range(9):
        places.put(f"{number}.png", image(number))
        restore(planned(places))
    before = states(planned(places))
    monkeypatch.setattr(store_memory, "_MAX_PARTS", 4)
    monkeypatch.setattr(store_memory, "_MERGED_RECORDS", 5)
    objects = places.target._objects
    removed = []
    with monkeypatch.context() as patch:
        patch.setattr(type(objects), "remove", lambda self, name: removed.append(name))
        ObjectManifest(objects).prepare()  # killed before the old parts are removed
    assert len(removed) == 9
    assert states(planned(places)) == before
    ObjectManifest(objects).prepare()
    assert len(list(objects.list_objects(JOURNAL))) == 2
    assert states(planned(places)) == before
    assert set(before.values()) == {"done"}


def test_a_full_part_is_followed_by_another(places, monkeypatch):
    from varfix.engine.storage import journal as store_journal

    monkeypatch.setattr(store_journal, "PART", 3)
    for number in range(8):
        places.put(f"{number}.png", image())
    restore(planned(places))
    assert len(list(places.target._objects.list_objects(JOURNAL))) == 3
    assert set(states(planned(places)).values()) == {"done"}


def test_a_source_put_again_differs_from_its_former_self_within_the_same_second(places):
    former, later = (image(shade, fmt="BMP") for shade in (2, 3))
    assert len(former) == len(later)
    places.put("a.bmp", former)
    restore(planned(places))
    places.put("a.bmp", later)
    assert states(planned(places)) == {"a.bmp": "stale"}
    places.put("a.bmp", former)
    assert states(planned(places)) == {"a.bmp": "done"}
