"""Runs between two places without a model: every source, and a mark behind it, is a result."""

import io
from dataclasses import dataclass

from PIL import Image

from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import KnownFile
from varfix.engine.storage.manifest import image_entry
from varfix.engine.storage.open import open_store, store_of
from varfix.engine.storage.store import Store


@dataclass
class Places:
    """Two places of one kind."""

    source: Store
    target: Store

    def put(self, name, data, end="source"):
        store = getattr(self, end)
        if store.folder is None:
            store._objects.write(name, data)
            return
        path = store.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, name, end="target"):
        store = getattr(self, end)
        if store.folder is None:
            return store._objects.read(name)
        return (store.folder / name).read_bytes()

    def remove(self, name, end="target"):
        store = getattr(self, end)
        if store.folder is None:
            store._objects.remove(name)
        else:
            (store.folder / name).unlink()

    def at(self, end, below):
        """The place below one of the two."""
        store = getattr(self, end)
        if store.folder is None:
            return open_store(f"{store.address}/{below}")
        return store_of(store.folder / below)


def image(shade=7, size=(5, 3), fmt="PNG", mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade,) * len(mode)).save(stream, fmt)
    return stream.getvalue()


def planned(places, settings=None, recipe="recipe", **request):
    request = BatchRequest(**request)
    return plan_batch(places.source, places.target, request, settings or Settings(), recipe)


def admit(header):
    pass


def restore(plan, note=None):
    """Publish every source as its own result, as a run would."""
    with plan.lock():
        for item in plan.items:
            source, target = item.source, item.target
            known = KnownFile(item.header, source.version)
            fetched = plan.source.fetch(source.name, known, admit)
            data = fetched.data + b"restored"
            names = {"dst": target.name, "src": source.name}
            entry = image_entry(**names, stat=fetched.stat, fingerprint=plan.fingerprint, data=data)
            with plan.manifest.recording(entry, plan.target.replaces(target.name, source.path)):
                plan.target.publish(target.name, data, overwrite=target.replaces)
                if note is not None:
                    note(item)
        plan.manifest.close()


def states(plan):
    found = {item.source.name: "todo" for item in plan.items}
    return found | {skip.src: skip.reason for skip in plan.skips}
