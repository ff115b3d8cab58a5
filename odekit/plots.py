"""Figures: the only module that imports matplotlib."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Okabe & Ito's palette, told apart by readers with any colour vision; the learned table is the one drawn strongly.
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2")
LEARNED = "#D55E00"
MARKERS = "osD^vP"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


def sampler_figure(
    path: str | os.PathLike,
    budgets: Sequence[int],
    errors: Mapping[str, Sequence[float]],
    distances: Mapping[str, Sequence[float]],
    floor: float,
    real: np.ndarray,
    fine: np.ndarray,
    ends: Mapping[str, np.ndarray],
) -> None:
    """Draw quality against network evaluations in two panels, and below them what the samplers make of equal noise.

    Args:
        path: where to write; the suffix decides the format.
        budgets: (B,) network evaluations.
        errors: (B,) root mean square errors to the fine solution by sampler; the learned one last.
        distances: (B,) distances to held-out data by sampler.
        floor: the distance of the fine solution itself.
        real: (n, height, width) images of the data in [-1, 1].
        fine: (n, height, width) images of the fine solution.
        ends: (n, height, width) images by sampler at the lowest budget; column i starts from the same noise in each.
    """
    from matplotlib.figure import Figure
    from matplotlib.style import context

    *_, last = ends
    first, *_ = ends
    few = f"{budgets[0]} evaluations"
    samples = {"real digits": real, "fine solution": fine, last: ends[last], first: ends[first]}
    changes = {name: images - fine for name, images in ends.items()}
    with context(STYLE):
        heights = (3.1, 0.34 + 0.3 * len(samples), 0.34 + 0.3 * len(ends))  # inches
        figure = Figure(figsize=(7.2, sum(heights)), layout="constrained")
        top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
        left, right = top.subplots(1, 2)
        _curves(left, budgets, errors, "root mean square error")
        left.set_yscale("log")
        left.set_title("(a)  distance to the fine solution")
        _curves(right, budgets, distances, "Fréchet distance of pixels")
        right.axhline(floor, color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        right.plot([], [], color="black", linewidth=0.9, linestyle=(0, (4, 3)), label="fine solution")
        right.set_title("(b)  distance to held-out digits")
        handles, labels = right.get_legend_handles_labels()
        right.legend(handles, labels, loc="upper right", fontsize=8, handlelength=2.2, labelspacing=0.35)
        _strips(
            middle,
            f"(c)  digits; learned and {first} after {few}, from the noise of the fine solution",
            samples,
            "gray_r",
            1.0,
        )
        _strips(bottom, f"(d)  difference to the fine solution after {few}", changes, "RdBu_r", 0.5)
        figure.savefig(path)


def _curves(axes: Any, budgets: Sequence[int], values: Mapping[str, Sequence[float]], label: str) -> None:
    for i, (name, row) in enumerate(values.items()):
        strong = i == len(values) - 1
        axes.plot(
            budgets,
            row,
            label=name,
            color=LEARNED if strong else COLOURS[i],
            marker="*" if strong else MARKERS[i],
            markersize=10 if strong else 4.5,
            linewidth=2.2 if strong else 1.2,
            zorder=3 if strong else 2,
        )
    axes.set_xticks(budgets)
    axes.set_xlabel("network evaluations")
    axes.set_ylabel(label)


def _strips(figure: Any, title: str, rows: Mapping[str, np.ndarray], colours: str, limit: float) -> None:
    """Draw one strip of images per label, one empty pixel between images."""
    band = 0.3 / (0.34 + 0.3 * len(rows))
    figure.text(0.01, 1 - 0.04 * band, title, va="top", fontsize=10)
    for i, (label, images) in enumerate(rows.items()):
        axis = figure.add_axes((0.175, (len(rows) - 0.85 - i) * band, 0.82, 0.92 * band))
        padded = np.pad(np.asarray(images, float), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        strip = np.concatenate(list(padded), axis=1)
        axis.imshow(strip, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8.5)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
