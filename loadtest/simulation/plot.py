"""The picture of a simulated sale: queue, passes, stock and wait over time."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from loadtest.simulation.result import Result

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 11.0, 11.0, 110
COLOURS = ("#30638e", "#d1495b", "#edae49", "#00798c")


def draw(result: Result, path: Path) -> None:
    """Write the picture, a PNG."""
    mpl.use("agg")
    plan, points = result.plan, result.points
    minutes = [(point.at_s - plan.sale_starts_s) / 60 for point in points]
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    queue, passes, stock, wait = figure.subplots(4, 1, sharex=True)
    queue.fill_between(minutes, [point.waiting for point in points], color=COLOURS[0], alpha=0.25)
    queue.plot(minutes, [point.waiting for point in points], color=COLOURS[0])
    passes.plot(minutes, [point.out for point in points], color=COLOURS[1])
    passes.axhline(plan.passes_max, color="0.4", linestyle=":", linewidth=1.2)
    passes.annotate(
        f"passes_max {plan.passes_max:,}", (0.995, plan.passes_max), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=8, color="0.4",
    )  # fmt: skip
    stock.stackplot(
        minutes,
        [point.confirmed for point in points],
        [point.reserved for point in points],
        [point.available for point in points],
        labels=("sold", "held", "left"),
        colors=(COLOURS[3], COLOURS[2], "0.88"),
    )
    stock.legend(loc="center left", frameon=False, fontsize=9)
    waited = [
        (minute, point.waited_s / 60)
        for minute, point in zip(minutes, points, strict=True)
        if point.waited_s is not None
    ]
    wait.plot([minute for minute, _ in waited], [value for _, value in waited], color=COLOURS[0])
    for axes, label in (
        (queue, "people waiting"),
        (passes, "passes out"),
        (stock, "seats"),
        (wait, "minutes waited\nby those let in then"),
    ):
        _tidy(axes, label)
    wait.set_xlabel("minutes since the sale began")
    figure.suptitle(
        f"{plan.people:,} people, {plan.seats:,} seats, {plan.admissions_per_second:g} let in a second "
        f"at most (waiting room {plan.mode}, seed {plan.seed}; simulated)",
        fontsize=12,
    )
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _tidy(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.grid(visible=True, color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
