"""The plot of an evaluation: an SVG with light and dark colours, in plain text."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokcodec.evaluate.baselines import TITLES
from tokcodec.evaluate.metrics import SCORES

_WIDTH, _HEIGHT = 560, 380  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 104, 34, 46  # margins; labels of lines are in the right one
_LABEL = 13  # pixels between two labels
_NEAR = 80  # lines that end this near to the right margin have their labels there
# Colours on a light and on a dark background: of baselines, and of checkpoints in their order.
_BASELINES = {
    "thumbhash": ("#777777", "#9a9a9a"),
    "blurhash": ("#9a7043", "#c49a6c"),
    "webp": ("#1f8a7d", "#45b8aa"),
    "avif": ("#6a57bd", "#9d8ee6"),
    "jxl": ("#2f73b3", "#65a9e6"),
    "jpeg": ("#77852a", "#b0bd58"),
}
_CHECKPOINTS = (
    ("#d9480f", "#ff8a4f"),
    ("#c2255c", "#f783ac"),
    ("#862e9c", "#da77f2"),
    ("#a86a00", "#f0b429"),
)
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: currentColor; }
.title { font-size: 13px; font-weight: 600; }
.axis, .grid, .lead, polyline { fill: none; stroke: currentColor; }
.grid { opacity: .15; } .lead { opacity: .4; }
circle { fill: currentColor; }
polyline { stroke-width: 1.5; }
.own text { font-weight: 600; } .own polyline { stroke-width: 2.5; }
"""

Line = list[tuple[float, float]]  # bytes and score


def plot(report: Mapping[str, Any], measures: Sequence[str]) -> bytes:
    """Plots scores over bytes of the whole file: a panel for each measure, a line for each codec.

    Args:
        report: the figures as plain data; equal figures give equal bytes.
        measures: names of scores.
    """
    colours = dict(_BASELINES)  # by class
    for number in range(len(_checkpoints(report))):
        colours[f"own{number}"] = _CHECKPOINTS[number % len(_CHECKPOINTS)]
    light, dark = (
        "".join(f".{name} {{ color: {pair[shade]}; }} " for name, pair in colours.items())
        for shade in (0, 1)
    )
    panels = [_panel(report, measure) for measure in measures]
    width = _WIDTH * len(panels)
    label = "; ".join(f"{SCORES[measure][0]} over bytes of the whole file" for measure in measures)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" '
        f'width="{width}" height="{_HEIGHT}" role="img" aria-label="{label}">',
        "<style>",
        f"svg {{ color: #333; }} {light.strip()}",
        f"@media (prefers-color-scheme: dark) {{ svg {{ color: #c9ccd1; }} {dark}}}",
        _STYLE.strip(),
        "</style>",
    ]
    for number, panel in enumerate(panels):
        lines += [f'<g transform="translate({number * _WIDTH} 0)">', *panel, "</g>"]
    return "\n".join([*lines, "</svg>\n"]).encode()


def _checkpoints(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["own"]["codec"] for row in report["rows"]))


def _lines(report: Mapping[str, Any], measure: str) -> dict[tuple[str, int | None], Line]:
    """The points of every codec that has a file for all images, by rising bytes; each size of
    images is another line."""
    lines: dict[tuple[str, int | None], dict[float, float]] = {}
    for row in report["rows"]:
        for mean in (row["own"], *row["baselines"]):
            if mean[measure] is not None:
                line = lines.setdefault((mean["codec"], row["size"]), {})
                line[mean["file_bytes"]] = mean[measure]
    return {codec: sorted(points.items()) for codec, points in lines.items()}


def _panel(report: Mapping[str, Any], measure: str) -> list[str]:
    lines = _lines(report, measure)
    checkpoints = _checkpoints(report)
    sizes = [size for line in lines.values() for size, _ in line] or [1.0]
    scores = [score for line in lines.values() for _, score in line] or [0.0]
    ticks = _ticks(min(scores), max(scores))
    least, most = math.log(min(sizes)) - 0.1, math.log(max(sizes)) + 0.1

    def x(size: float) -> float:
        return _LEFT + (math.log(size) - least) / (most - least) * (_WIDTH - _LEFT - _RIGHT)

    def y(score: float) -> float:
        share = (score - ticks[0]) / (ticks[-1] - ticks[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    made = [f'<text class="title" x="{_LEFT}" y="20">{SCORES[measure][0]}</text>']
    for tick in ticks:
        made.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{right}"/>')
        made.append(
            f'<text x="{_LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for size in _sizes(min(sizes), max(sizes)):
        made.append(f'<path class="grid" d="M{x(size):.1f} {_TOP}V{bottom}"/>')
        made.append(
            f'<text x="{x(size):.1f}" y="{bottom + 17}" text-anchor="middle">{size:,}</text>'
        )
    made.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    made.append(
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "bytes of the whole file (log scale)</text>"
    )
    codecs = sorted(lines, key=lambda line: line[0] in checkpoints)  # drawn last, on top
    several = len({size for _, size in codecs}) > 1
    long = [codec for codec in codecs if x(lines[codec][-1][0]) > right - _NEAR]
    tops = dict(
        zip(long, _apart([y(lines[codec][-1][1]) for codec in long], _TOP, bottom), strict=True)
    )
    for line in codecs:
        codec, side = line
        own = codec in checkpoints
        kind = f"own own{checkpoints.index(codec)}" if own else codec
        places = [(x(size), y(score)) for size, score in lines[line]]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        title = html.escape(TITLES.get(codec, codec) + several * f" {side}")
        made += [f'<g class="{kind}">', f'<polyline points="{path}"/>']
        made += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{3 if own else 2}"/>' for px, py in places
        ]
        px, py = places[-1]
        left, top = px + 7, py  # of the label, unless it is in the margin
        if line in tops:
            left, top = right + 8, tops[line]
            made.append(f'<path class="lead" d="M{px + 5:.1f} {py:.1f}L{left - 3} {top:.1f}"/>')
        made += [f'<text x="{left:.1f}" y="{top + 4:.1f}">{title}</text>', "</g>"]
    return made


def _ticks(least: float, most: float) -> list[float]:
    """Round numbers, from at most ``least`` to at least ``most``."""
    span = max(most - least, 0.02 * most, 1e-3)  # also of a single point
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(least / step), math.ceil(most / step)
    return [round(number * step, 6) for number in range(first, max(last, first + 1) + 1)]


def _sizes(least: float, most: float) -> list[int]:
    """Round numbers of bytes between these, for a logarithmic axis."""
    found = [
        factor * 10**power
        for power in range(9)
        for factor in (1, 2, 5)
        if least * 0.95 <= factor * 10**power <= most * 1.05
    ]
    return found or [round(least)]


def _apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Moves labels apart, so that they can be read."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places = list(wanted)
    for before, index in zip([None, *order], order, strict=False):
        least = top if before is None else places[before] + _LABEL
        places[index] = max(places[index], least)
    for after, index in zip([None, *reversed(order)], reversed(order), strict=False):
        most = bottom if after is None else places[after] - _LABEL
        places[index] = min(places[index], most)
    return places
