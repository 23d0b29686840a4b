"""The picture: CPU per operation against the logarithm of the number, one line for each operation."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.typing import ColorType

from loadtest.growth.result import GROWTH_MAX, Line, Result

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 13.0, 6.5, 110
MARKERS = "osD^vPX*<>h"
NAMES_AT = 1.06
GAP = 0.037
"""Between two names, as a share of the axis."""


def draw(result: Result, path: Path) -> None:
    """Write the picture, a PNG."""
    mpl.use("agg")
    by_events = [line for line in result.by_events if not line.is_control]
    labelled = ((result.by_holds, "live holds in one event"), (by_events, "events on sale"))
    panels = [(lines, label) for lines, label in labelled if lines]
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for place, (lines, label) in zip(axes, panels, strict=False):
        _panel(place, lines, label)
    place = result.place
    figure.suptitle(
        f"Ticket Rush: CPU per operation, median of {place.rounds} interleaved runs "
        f"({place.date}, commit {place.commit})",
        fontsize=12,
    )
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _panel(axes: Axes, lines: Sequence[Line], label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("CPU microseconds per operation")
    colours = mpl.colormaps["tab20"]
    ends: list[tuple[float, float, str, ColorType]] = []
    for number, line in enumerate(lines):
        numbers = [point.at for point in line.points]
        medians = [point.median_us for point in line.points]
        colour = "0.45" if line.is_control else colours(2 * number % 20 + (number >= 10))
        style = ":" if line.is_control else "-" if line.is_flat else "--"
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(numbers, medians, style, color=colour, marker=marker, markersize=5, linewidth=1.8)
        axes.fill_between(
            numbers,
            [point.lowest_us for point in line.points],
            [point.highest_us for point in line.points],
            color=colour,
            alpha=0.08,
            linewidth=0,
        )
        ends.append((numbers[-1], medians[-1], f"{line.operation}  x {line.growth:.2f}", colour))
    _name_lines(axes, ends)
    whole = FuncFormatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(LogLocator(10))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(whole)
        axis.set_minor_locator(NullLocator())
    axes.grid(visible=True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"dashed: grows by more than {GROWTH_MAX - 1:.0%}; dotted: control", fontsize=9)


def _name_lines(axes: Axes, ends: Sequence[tuple[float, float, str, ColorType]]) -> None:
    """Write the names to the right of where the lines end, moved apart where they would overlap."""
    to_share = axes.transScale + axes.transLimits
    wanted = sorted((float(to_share.transform((x, y))[1]), x, y, text, colour) for x, y, text, colour in ends)
    heights = spread([share for share, *_ in wanted], GAP)
    for height, (_, x, y, text, colour) in zip(heights, wanted, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(NAMES_AT, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0, 0.5)},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as possible so that any two are `gap` apart.

    Least squares under that constraint, by pooling adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for number, place in enumerate(places):
        mean, count = place - number * gap, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + number * gap for number, mean in enumerate(flat)]
