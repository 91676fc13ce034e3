"""Charts as SVG text: points of quality against cost, lines, and bars. Nothing but the numbers is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Few units for the whole width, so that text is still read where a page is as narrow as a telephone.
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 28, 14, 52
_BAR, _GAP, _NAME = 18, 12, 20
_PARTS, _VALUE = (
    104,
    64,
)  # least room for names of parts on the left of bars, and room for values on their right
_LONGEST_NAME = 50
_PALETTE = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#ca8a04", "#dc2626")
# Where a point's label may stand, the best place first: across, up, anchor.
_BESIDE = (
    (9, -5, "start"),
    (-9, -5, "end"),
    (0, 10, "middle"),
    (0, -20, "middle"),
    (9, 8, "start"),
    (-9, 8, "end"),
)
_DIGIT, _LINE, _RADIUS = 8.0, 14.0, 6.0
# Where there is no room beside the point: up and down in steps of a line, the nearest first.
_FARTHER = tuple(
    (across, -5 + side * step * _LINE, anchor)
    for step in range(1, 8)
    for side in (1, -1)
    for across, anchor in ((9, "start"), (-9, "end"))
)
COLOURS = "".join(f".c{number}{{fill:{colour}}}" for number, colour in enumerate(_PALETTE))
"""What the classes of a chart's parts are filled with."""
_NAMESPACE = "http://www.w3.org/2000/svg"
_ALONE = (
    "svg{background:#fff;max-width:720px}text{font:12px system-ui,sans-serif;fill:#111}.grid{stroke:#8884}\n"
)


@dataclass(frozen=True)
class Point:
    """A point: the number that stands at it, its name, and where it is."""

    number: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        number: That stands at its end.
        name: What is told of it.
        points: x, y, and what is told of the point beside them; x ascending.
    """

    number: int
    name: str
    points: Sequence[tuple[float, float, str]]


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, *, logarithmic: bool = True, named: bool = False
) -> str:
    """Points over an axis.

    Args:
        points: At least one; x is above 0 on a logarithmic axis.
        x_title: What x is.
        y_title: What y is.
        logarithmic: Whether the axis of x is.
        named: Whether names stand at the points, instead of numbers.

    Returns:
        SVG.

    Raises:
        ValueError: There is no point, or an x has no logarithm.
    """
    if not points or (logarithmic and min(point.x for point in points) <= 0):
        raise ValueError("a scatter needs a point, and every x above 0")
    scale, x_ticks = _axis([point.x for point in points], logarithmic)
    ticks = nice_ticks(min(point.y for point in points), max(point.y for point in points))

    def x_of(value: float) -> float:
        return _between(scale(value), 0, 1, LEFT, WIDTH - RIGHT)

    parts = _axes([(x_of(tick), f"{tick:g}") for tick in x_ticks], ticks, x_title, y_title)
    centres = [(x_of(point.x), _height(point.y, ticks)) for point in points]
    labels = [point.name if named else str(point.number) for point in points]
    places = _label_places(centres, labels)
    for point, (x, y), label, place in zip(points, centres, labels, places, strict=True):
        where = f"{point.x:,.1f}" if logarithmic else f"{point.x:.4f}"
        told = escape(f"{point.name}: {y_title} {point.y:.4f}, {x_title} {where}")
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS:g}"/>'
        shown = _text(place[0], place[1], label, place[2])
        parts.append(f'<g class="c{point.number % len(_PALETTE)}"><title>{told}</title>{circle}{shown}</g>')
    return "\n".join([*parts, "</svg>"])


def _axis(values: Sequence[float], logarithmic: bool) -> tuple[Callable[[float], float], list[float]]:
    """What maps a value to its place from 0 to 1, and where the axis has its ticks."""
    if not logarithmic:
        ticks = nice_ticks(min(values), max(values))
        return lambda value: (value - ticks[0]) / (ticks[-1] - ticks[0]), ticks
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    return lambda value: (math.log10(value) - low) / (high - low), [
        10.0**each for each in range(low, high + 1)
    ]


def lines(series: Sequence[Line], x_title: str, y_title: str) -> str:
    """Lines over two axes with even steps.

    Args:
        series: At least one, each with a point.
        x_title: What x is.
        y_title: What y is.

    Returns:
        SVG.

    Raises:
        ValueError: There is no line, or one without a point.
    """
    if not series or not all(line.points for line in series):
        raise ValueError("a chart of lines needs a line, and every line a point")
    across = [x for line in series for x, _, _ in line.points]
    up = [y for line in series for _, y, _ in line.points]
    steps, ticks = nice_ticks(min(across), max(across)), nice_ticks(min(up), max(up))

    def x_of(value: float) -> float:
        return _between(value, steps[0], steps[-1], LEFT, WIDTH - RIGHT - 16)

    parts = _axes([(x_of(step), f"{step:g}") for step in steps], ticks, x_title, y_title)
    bases = _apart([_height(line.points[-1][1], ticks) + 4 for line in series])
    for line, base in zip(series, bases, strict=True):
        colour = _PALETTE[line.number % len(_PALETTE)]
        places = [(x_of(x), _height(y, ticks)) for x, y, _ in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn = [f'<polyline points="{path}" style="fill:none" stroke="{colour}"/>']
        for (x, y), (share, value, told) in zip(places, line.points, strict=True):
            title = escape(f"{line.name}: {y_title} {value:.4f}, {x_title} {share:g}{told}")
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{title}</title></circle>')
        drawn.append(_text(places[-1][0] + 7, base, str(line.number), "start"))
        parts.append(f'<g class="c{line.number % len(_PALETTE)}">{"".join(drawn)}</g>')
    return "\n".join([*parts, "</svg>"])


def standalone(chart: str) -> str:
    """A chart as a file of its own, with its colours inside."""
    opening, _, rest = chart.partition(">")
    named = opening.replace("<svg", f'<svg xmlns="{_NAMESPACE}"', 1)
    return f"{named}>\n<style>{_ALONE}{COLOURS}</style>{rest}\n"


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], title: str) -> str:
    """For each name a bar for each of its parts, such as warm and cold, from 0 on; long names are cut.

    Args:
        rows: Name, and names and values of its parts; at least one row, no value below 0.
        title: What the values are.

    Returns:
        SVG.

    Raises:
        ValueError: There is no bar, or a value is below 0.
    """
    values = [value for _, parts in rows for _, value in parts]
    if not values or min(values) < 0:
        raise ValueError("bars need a value, and none below 0")
    longest = nice_ticks(0.0, max(values))[-1]
    left = max(_PARTS, 22 + 6 * max(len(part) for _, parts in rows for part, _ in parts))
    height = sum(_NAME + _BAR * len(parts) + _GAP for _, parts in rows) + _GAP
    made, y = [_opening(height, title)], float(_GAP)
    for name, parts in rows:
        shown_name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        made.append(_text(4, y + 13, shown_name, "start"))
        y += _NAME
        for number, (part, value) in enumerate(parts):
            length = (WIDTH - _VALUE - left) * value / longest
            shown = f"<title>{escape(f'{name}, {part}: {title} {value:.4f}')}</title>"
            box = f'<rect x="{left}" y="{y:.0f}" width="{length:.1f}" height="{_BAR - 4}"/>'
            made.append(f'<g class="c{number}">{shown}{box}</g>')
            made.append(_text(left - 6, y + 12, part.replace("_", " "), "end"))
            made.append(_text(left + 6 + length, y + 12, f"{value:.4f}", "start"))
            y += _BAR
        y += _GAP
    return "\n".join([*made, "</svg>"])


def nice_ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers from at or below one value to at or above another, about as many as asked for.

    Args:
        low: The lower value.
        high: The higher one; equal values get room around them.
        number: Of steps, at least.

    Returns:
        Ticks a step of 1, 2 or 5 times a power of 10 apart.
    """
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.05 * (abs(low) or 1.0), high + 0.05 * (abs(high) or 1.0)
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _axes(
    marks: Sequence[tuple[float, str]], ticks: Sequence[float], x_title: str, y_title: str
) -> list[str]:
    """The chart's beginning: grid, marks of x at their places, ticks of y, titles."""
    parts = [_opening(HEIGHT, f"{y_title} against {x_title}")]
    for tick in ticks:
        y = _height(tick, ticks)
        parts.append(_line(LEFT, WIDTH - RIGHT, y, y))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:.4g}", "end"))
    for x, mark in marks:
        parts.append(_line(x, x, TOP, HEIGHT - BOTTOM))
        parts.append(_text(x, HEIGHT - BOTTOM + 18, mark, "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"))
    turned = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_title)}</text>')
    return parts


def _height(value: float, ticks: Sequence[float]) -> float:
    return _between(value, ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)


def _between(value: float, low: float, high: float, first: float, last: float) -> float:
    """The place between two that a value has between two others."""
    return first + (last - first) * (value - low) / (high - low)


def _apart(bases: Sequence[float]) -> list[float]:
    """Base lines of texts over one another, moved as little as keeps a line between them, above the chart's bottom."""
    moved, order = list(bases), sorted(range(len(bases)), key=bases.__getitem__)
    for above, below in zip(order, order[1:], strict=False):
        moved[below] = max(moved[below], moved[above] + _LINE)
    moved[order[-1]] = min(moved[order[-1]], HEIGHT - BOTTOM + _RADIUS)
    for below, above in zip(order[::-1], order[-2::-1], strict=False):
        moved[above] = min(moved[above], moved[below] - _LINE)
    return moved


def _label_places(
    centres: Sequence[tuple[float, float]], labels: Sequence[str]
) -> list[tuple[float, float, str]]:
    """Where the label of each point stands: near it within the chart, on no other point or label if there is room."""
    taken = [(x - _RADIUS, x + _RADIUS, y - _RADIUS, y + _RADIUS) for x, y in centres]
    places = []
    for (x, y), label in zip(centres, labels, strict=True):
        width = _DIGIT * len(label)
        options = []
        for across, up, anchor in (*_BESIDE, *_FARTHER):
            left = x + across - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            base = y - up
            box = (left, left + width, base - 0.75 * _LINE, base + 0.25 * _LINE)
            outside = left < 0 or left + width > WIDTH or box[2] < 0 or box[3] > HEIGHT - BOTTOM + 10
            options.append(
                (outside, sum(_meet(box, other) for other in taken), (x + across, base, anchor), box)
            )
        _, _, place, box = min(options, key=lambda option: option[:2])
        places.append(place)
        taken.append(box)
    return places


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, right, top, bottom) have room in common."""
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _opening(height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
