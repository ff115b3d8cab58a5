"""The figure of `which_sampler.py`: a panel a model, the leading tables named at the ends of their lines."""

import numpy as np

from odekit.plots import COLOURS, LEARNED, STYLE

SHOWN = (5, 10, 20, 40)
BASELINE = "ddim"
PALETTE = (LEARNED, *COLOURS[5:], *COLOURS[3:5], *COLOURS[1:3], "#7F4F24", "#5A189A")
GREY = "#C9C9C9"


def by_table(rows, model):
    """Return, by table, its rows on the advised grid."""
    mine = [row for row in rows if row["model"] == model and row.get("advised", True) and "evaluations" in row]
    return {name: [row for row in mine if row["table"] == name] for name in dict.fromkeys(r["table"] for r in mine)}


def at(curve, budget, key="error"):
    """Return the value at the most evaluations within a budget, None without any above half of it."""
    within = [row for row in curve if budget / 2 < row["evaluations"] <= budget]
    return min(within, key=lambda row: -row["evaluations"])[key] if within else None


def leaders(curves, key):
    """Return the tables that are best at one of the budgets that are shown."""
    best = []
    for budget in SHOWN:
        values = {name: at(curve, budget, key) for name, curve in curves.items()}
        known = {name: value for name, value in values.items() if value is not None}
        best.append(min(known, key=lambda name: known[name]))
    return list(dict.fromkeys(best))


def spread_out(wanted, gap):
    """Return heights at least `gap` apart, as near to those wanted as that allows, in any order."""
    order, heights = np.argsort(wanted), np.array(wanted, float)
    for _ in range(200):
        for low, high in zip(order[:-1], order[1:], strict=True):
            if (lack := gap - (heights[high] - heights[low])) > 1e-9:
                heights[low] -= lack / 2
                heights[high] += lack / 2
    return heights


def draw(rows, spread, path):
    """Draw one panel a model and one of the distances to its law; models that are absent leave no panel."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    panels = [(model, by_table(rows, model), "error") for model in dict.fromkeys(row["model"] for row in rows)]
    for model in dict.fromkeys(row["model"] for row in spread):
        panels.append((f"{model}: law", by_table(spread, model), "distance"))
    floor = min((row["distance"] for row in spread if row["table"] == "exact"), default=None)
    named = list(dict.fromkeys(name for _, curves, key in panels for name in leaders(curves, key)))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(named)} | {BASELINE: "black"}
    with context(STYLE):
        figure = Figure(figsize=(7.6, 2.65 * -(-len(panels) // 3)), layout="constrained")
        axes = np.ravel(figure.subplots(-(-len(panels) // 3), 3))
        for axis, panel in zip(axes, panels, strict=False):
            draw_panel(axis, *panel, colours, floor)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("network evaluations", fontsize=9)
        figure.savefig(path, dpi=170)


def draw_panel(axis, title, curves, key, colours, floor):
    from matplotlib.ticker import LogLocator, NullFormatter

    strong = list(dict.fromkeys([*leaders(curves, key), BASELINE]))
    top = max(row[key] for row in curves[BASELINE]) * (1.6 if key == "error" else 4.0)
    low = min([row[key] for name in curves for row in curves[name]] + ([floor] if key == "distance" else []))
    axis.set(xscale="log", yscale="log", xlim=(3.8, 190), ylim=(low / 1.6, top))
    for name, curve in curves.items():
        xs, ys = [row["evaluations"] for row in curve], [row[key] for row in curve]
        if name in strong:
            line = "--" if name == BASELINE else "-"
            axis.plot(xs, ys, line, color=colours[name], linewidth=1.5, marker=".", markersize=4, zorder=3)
        else:
            axis.plot(xs, ys, color=GREY, linewidth=0.7, zorder=1)
    if key == "distance":
        axis.axhline(floor, color="black", linewidth=0.8, linestyle=":")
        axis.text(4, floor / 1.05, "two sets of exact samples", fontsize=7, va="top")
    decades = np.log10(top / (low / 1.6))
    heights = spread_out([np.log10(curves[name][-1][key]) for name in strong], 0.065 * decades)
    for name, height in zip(strong, heights, strict=True):
        axis.text(46, 10**height, name, color=colours[name], fontsize=7, va="center")
    axis.set_title(title, fontsize=8.5)
    axis.set_xticks((5, 10, 20, 40), ("5", "10", "20", "40"))
    axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axis.yaxis.set_major_locator(LogLocator(numticks=8))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=7.5)
    axis.set_ylabel("error" if key == "error" else "sliced Wasserstein distance", fontsize=8)
