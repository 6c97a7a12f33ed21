"""Fingerprints of the settings that decide a result, by which a later run knows its results.

The manifest stores them under the key `recipe`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import msgspec

from varfix.engine.batch.item import Item
from varfix.engine.restoration.tone_lock import may_lock_tone
from varfix.engine.settings.types import RENAMED_KEYS, Settings
from varfix.engine.video.clip import TimeRange

_LENGTH: Final = 16  # hex digits
# Renamed settings keep their old names here, so that earlier results stay up to date.
_STORED_KEYS: Final = {
    new.removeprefix("video."): old.removeprefix("video.") for old, new in RENAMED_KEYS.items()
}
_ADDED: Final[dict[str, Any]] = {"fps": None, "alpha": "auto", "compare": False}


def settings_fingerprint(settings: Settings, model_sha256: str, tile: int) -> str:
    """Return the fingerprint of model, tile size, and settings that decide a result's bytes.

    Device, threads, batch and limits change the speed, not the results, and are left out.

    Args:
        settings: Resolved settings.
        model_sha256: Digest of all graphs of the model.
        tile: Side of the tiles in pixels.
    """
    values = msgspec.to_builtins(settings)
    decisive = {key: values[key] for key in ("strength", "output")}
    del decisive["output"]["times"]  # no byte of a result depends on it
    decisive["task"] = values["model"]["task"]
    decisive["overlap"] = values["tile"]["overlap"]
    decisive |= {"model": model_sha256, "tile": tile}
    # Only where they differ from the default: results made before these settings existed match.
    added = {"tone": settings.tile.tone == "tile", "whole": settings.tile.resize_whole}
    decisive |= {key: True for key, value in added.items() if value}
    if may_lock_tone(settings):
        decisive["tone_lock"] = settings.tile.tone_lock
    if settings.model.level is not None:
        decisive["level"] = settings.model.level
    return _digest(decisive)


def item_fingerprint(item: Item, fingerprint: str, settings: Settings) -> str:
    """Return the fingerprint of everything that decides the result of an item.

    Args:
        item: An image or a video.
        fingerprint: From `settings_fingerprint`.
        settings: Resolved settings.
    """
    if item.video is None or item.video.pipe.source is not None:
        return fingerprint
    return clip_fingerprint(fingerprint, settings, item.video.time_range)


def clip_fingerprint(fingerprint: str, settings: Settings, time_range: TimeRange) -> str:
    """Return the fingerprint of everything that decides a restored video.

    Args:
        fingerprint: From `settings_fingerprint`.
        settings: Resolved settings.
        time_range: The part of the video.
    """
    values = msgspec.to_builtins(settings.video)
    # Settings of later versions count only where they differ from the default.
    values = {key: value for key, value in values.items() if (key, value) not in _ADDED.items()}
    video = {_STORED_KEYS.get(key, key): value for key, value in values.items()}
    return _digest([fingerprint, video, str(time_range.begin), str(time_range.end)])


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
