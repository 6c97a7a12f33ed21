"""Draws the learning curves of a run from `metrics.jsonl`, by stage and step."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NothingToDoError
from varfix.engine.system.atomic import replacement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[list[int], list[float]]
LEAST_SPAN, MOST_POINTS = 1, 200
NOT_DRAWN = frozenset({"stage", "step", "time", "elapsed", "took"})


def read_curves(metrics: Path) -> dict[str, dict[str, Curve]]:
    """Return steps and values of each quantity of each stage; `wait` as a share of the time.

    Raises:
        NothingToDoError: There are no metrics.
    """
    stages: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(lambda: ([], [])))
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    for text in lines:
        line = json.loads(text)
        if "wait" in line:
            line["wait"] = line["wait"] / max(line["took"], 1e-9)
        for name in line.keys() - NOT_DRAWN:
            steps, values = stages[line["stage"]][name]
            steps.append(line["step"])
            values.append(line[name])
    if not stages:
        raise NothingToDoError(f"{metrics}: no steps recorded")
    return {stage: dict(curves) for stage, curves in stages.items()}


def draw_curves(metrics: Path, image: Path) -> None:
    """Draw one row of small plots for each stage.

    Raises:
        NothingToDoError: There are no metrics.
    """
    from matplotlib.figure import Figure

    stages = read_curves(metrics)
    columns = max(len(curves) for curves in stages.values())
    figure = Figure(figsize=(3.4 * columns, 2.6 * len(stages)), layout="constrained")
    plots = figure.subplots(len(stages), columns, squeeze=False)
    for row, (stage, curves) in zip(plots, stages.items(), strict=True):
        for plot in row[len(curves) :]:
            plot.set_axis_off()
        for plot, name in zip(row, sorted(curves), strict=False):
            _draw(plot, f"{stage}: {name}", curves[name])
    with replacement(image) as part:
        figure.savefig(part, format="png", dpi=90)


def _draw(plot: Axes, title: str, curve: Curve) -> None:
    """Draw the median and the middle half of the values, in up to `MOST_POINTS` groups of steps."""
    steps, values = (np.asarray(column, np.float64) for column in curve)
    span = max(LEAST_SPAN, len(steps) // MOST_POINTS)
    whole = len(steps) // span * span
    groups = values[:whole].reshape(-1, span)
    places = steps[:whole].reshape(-1, span).mean(1)
    low, middle, high = (_quantile(groups, share) for share in (0.25, 0.5, 0.75))
    plot.fill_between(places, low, high, alpha=0.3, linewidth=0)
    plot.plot(places, middle, linewidth=1.2)
    if title.endswith(": wait"):
        plot.set_ylim(0.0, 1.0)
    elif np.nanmin(middle) > 0.0:
        plot.set_yscale("log")
    plot.set_title(title, fontsize=9)
    plot.tick_params(which="both", labelsize=7)


def _quantile(groups: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.nanquantile(groups, share, axis=1)
    return values
