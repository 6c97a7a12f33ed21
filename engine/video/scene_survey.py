"""What is wrong with each scene of a video, decided once and held until the next cut.

A frame alone says little: the end of a fade to black looks like a dark frame, and that of a fade
to white like a hazy one. So a scene is judged from several frames of its beginning, of those that
show something, and every frame of it is treated for that. A frame that is itself faded is treated
less: a change of level inside a scene is the film's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.restoration.findings import KINDS, Finding
from varfix.engine.restoration.prior_input import PriorInput, prior_input_of, thumbnail
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.video.scene_cuts import REACH, SIDE, is_cut

Floats = npt.NDArray[np.float32]

JUDGED_FRAMES: Final = 240
"""A scene is judged from so many frames of its beginning."""

FIRST_FRAMES: Final = (4, 12)
"""Frames of a scene that are looked at for short scenes' sake."""

INTERVAL: Final = 30
"""Distance of the other frames that are looked at."""

VISIBLE: Final = 0.5
"""A frame with less than this share of the scene's contrast is faded, and no evidence."""

UNKNOWN: Final = Finding(probability=-1.0, acted=0.0, head_share=-1.0)
"""In place of a kind that the model does not judge: it decides by itself."""

TONE_KINDS: Final = ("haze", "lowlight")
"""Kinds of damage that a fade looks like."""


@dataclass(frozen=True)
class SceneJudgement:
    """What is known of a scene.

    Attributes:
        probabilities: (2, 6) in [0, 1] of `Restorer.prior`; None from models that do not say.
        contrast: Standard deviation of the brightness of its plainest frame.
    """

    probabilities: Floats | None
    contrast: float

    def of_frame(self, small: Floats) -> Floats | None:
        """Return the probabilities (2, 6) to act on in a frame of the scene.

        Args:
            small: (S, S, 3) in [0, 1], the frame.
        """
        if self.probabilities is None:
            return None
        held = self.probabilities.copy()
        plain = VISIBLE * self.contrast
        share = min(1.0, contrast_of(small) / plain) if plain > 0.0 else 1.0
        held[0, [KINDS.index(kind) for kind in TONE_KINDS]] *= np.float32(share)
        return held


@dataclass(frozen=True)
class _SmallFrame:
    """A frame of the survey: what tells cuts, and what the prior sees of it if it is looked at."""

    small: Floats
    prior_input: PriorInput


class SceneSurvey:
    """Judges the scenes of a video in order, from a pass of its own over the frames.

    A judgement depends on the frames alone, not on where a restoration begins.
    """

    def __init__(self, restorer: Restorer, frames: Iterable[tuple[int, Floats]], task: str) -> None:
        """Prepare; nothing is read yet.

        Args:
            restorer: A model with guidance `image`.
            frames: Numbers and pixels (H, W, 3) float32 in [0, 1] of all frames, from number 0.
            task: Task of the restoration.
        """
        self._restorer = restorer
        self._frames = _with_cuts(_shrunk(frames, restorer.card.thumbnail, task))
        self._begins: list[int] = []
        self._judgements: list[SceneJudgement] = []
        self._looks: list[_SmallFrame] = []  # of the current scene, until it is judged
        self._read = 0
        self._ended = False

    def at(self, frame: int) -> SceneJudgement:
        """Return the judgement of the scene that a frame belongs to; read on where necessary."""
        while not self._ended and (self._read <= frame or self._scene(frame) is None):
            self._advance()
        judgement = self._scene(frame)
        assert judgement is not None  # the last scene is judged when the frames end
        return judgement

    def _scene(self, frame: int) -> SceneJudgement | None:
        number = bisect_right(self._begins, frame) - 1
        return self._judgements[number] if 0 <= number < len(self._judgements) else None

    def _advance(self) -> None:
        """Read one more frame."""
        is_first, frame = next(self._frames, (False, None))
        if frame is None:
            self._judge()
            self._ended = True
            return
        if is_first:
            self._judge()
            self._begins.append(self._read)
        age = self._read - self._begins[-1]
        if age < JUDGED_FRAMES and (age % INTERVAL == 0 or age in FIRST_FRAMES):
            self._looks.append(frame)
        self._read += 1
        if age + 1 == JUDGED_FRAMES:
            self._judge()

    def _judge(self) -> None:
        """Judge the current scene from what was looked at, unless that is done."""
        if len(self._judgements) == len(self._begins):
            return
        contrasts = [contrast_of(look.small) for look in self._looks]
        plainest = max(contrasts)
        found = [
            self._probabilities(look)
            for look, contrast in zip(self._looks, contrasts, strict=True)
            if contrast >= VISIBLE * plainest
        ]
        known = [each for each in found if each is not None]
        held = np.median(known, axis=0).astype(np.float32) if known else None
        self._judgements.append(SceneJudgement(held, plainest))
        self._looks = []

    def _probabilities(self, look: _SmallFrame) -> Floats | None:
        self._restorer.prior(look.prior_input)
        findings = self._restorer.findings
        if findings is None:
            return None
        known = [findings.get(kind, UNKNOWN) for kind in KINDS]
        rows = [(finding.probability, finding.head_share) for finding in known]
        return np.array(rows, np.float32).T


def contrast_of(small: Floats) -> float:
    """Return the standard deviation of the brightness of a small image (S, S, 3)."""
    return float(small.mean(axis=2).std())


def _shrunk(frames: Iterable[tuple[int, Floats]], side: int, task: str) -> Iterator[_SmallFrame]:
    for _, pixels in frames:
        prior_input = prior_input_of(pixels, side, task)
        yield _SmallFrame(thumbnail(prior_input.thumbnail, SIDE), prior_input)


def _with_cuts(frames: Iterator[_SmallFrame]) -> Iterator[tuple[bool, _SmallFrame]]:
    """Yield each frame, and whether a scene begins with it."""
    past: deque[Floats] = deque(maxlen=REACH)
    ahead: deque[_SmallFrame] = deque()
    is_first = True
    while True:
        while len(ahead) < REACH and (following := next(frames, None)) is not None:
            ahead.append(following)
        if not ahead:
            return
        is_first = is_first or is_cut(list(past), [frame.small for frame in ahead])
        now = ahead.popleft()
        yield is_first, now
        is_first = False
        past.append(now.small)
