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
    rows: Mapping[str, np.ndarray],
) -> None:
    """Draw quality against network evaluations in two panels, and below them what the samplers make of equal noise.

    Args:
        path: where to write; the suffix decides the format.
        budgets: (B,) network evaluations.
        errors: (B,) root mean square errors to the fine solution by sampler; the learned one last.
        distances: (B,) distances to held-out data by sampler.
        floor: the distance of the fine solution itself.
        rows: (n, height, width) images in [-1, 1] by label; column i starts from the same noise in every row.
    """
    from matplotlib.figure import Figure
    from matplotlib.style import context

    with context(STYLE):
        figure = Figure(figsize=(7.2, 7.0), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.08))
        left, right = top.subplots(1, 2)
        _curves(left, budgets, errors, "root mean square error")
        left.set_title("(a)  distance to the fine solution")
        _curves(right, budgets, distances, "Fréchet distance of pixels")
        right.axhline(floor, color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        place = {"xy": (0.02, floor), "xycoords": ("axes fraction", "data"), "xytext": (0, 3)}
        right.annotate("fine solution", textcoords="offset points", fontsize=8, **place)
        right.set_title("(b)  distance to held-out digits")
        handles, labels = left.get_legend_handles_labels()
        top.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=1.6, columnspacing=1.2)
        _images(bottom, rows)
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
    axes.set_yscale("log")
    axes.set_xticks(budgets)
    axes.set_xlabel("network evaluations")
    axes.set_ylabel(label)


def _images(figure: Any, rows: Mapping[str, np.ndarray]) -> None:
    axes = figure.subplots(len(rows), 1)
    figure.suptitle("(c)  digits from equal noise, column by column", x=0.01, ha="left", fontsize=10)
    for axis, (label, images) in zip(axes, rows.items(), strict=True):
        n, height, width = images.shape
        strip = np.ones((height, n * (width + 1) - 1))  # one white pixel between images
        for i, image in enumerate(images):
            strip[:, i * (width + 1) : i * (width + 1) + width] = -image
        axis.imshow(strip, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
