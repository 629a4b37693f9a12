"""Learning curves as an SVG picture, by hand: a text file that every browser shows, on white and on black."""

import math
from html import escape

# Middle tones, with a contrast of 3 or more to both white and black: the background stays transparent.
COLOURS = ["#2f7ed8", "#d9541e", "#1f9254", "#c2409c", "#8a63d2", "#8a7500"]
GREY = "#7d7d7d"
LEFT, TOP, WIDTH, HEIGHT = 70, 40, 560, 320  # the frame of the curves, in pixels
FEW = 20  # up to so many points are marked


def curves(series: dict[str, list[tuple[float, float]]], title: str, x: str = "step", y: str = "loss") -> str:
    """One line for each named list of points; it is interrupted where a value is not finite."""
    finite = [p for points in series.values() for p in points if all(map(math.isfinite, p))]
    (x_low, x_high), (y_low, y_high) = (limits([p[axis] for p in finite] or [0.0]) for axis in (0, 1))

    def across(value):
        return LEFT + WIDTH * (value - x_low) / (x_high - x_low)

    def down(value):
        return TOP + HEIGHT * (y_high - value) / (y_high - y_low)

    right, bottom = LEFT + WIDTH, TOP + HEIGHT
    parts = [text(LEFT + WIDTH / 2, 22, title, "middle", 'font-size="16"')]
    for value, label in ticks(x_low, x_high):
        parts.append(line(across(value), bottom, across(value), bottom + 5))
        parts.append(text(across(value), bottom + 20, label, "middle"))
    for value, label in ticks(y_low, y_high):
        parts.append(line(LEFT, down(value), right, down(value), 'stroke-opacity="0.3"'))
        parts.append(text(LEFT - 8, down(value) + 4, label, "end"))
    parts.append(line(LEFT, bottom, right, bottom))
    parts.append(line(LEFT, TOP, LEFT, bottom))
    parts.append(text(LEFT + WIDTH / 2, bottom + 42, x, "middle"))
    turned = f'transform="rotate(-90 16 {TOP + HEIGHT / 2})"'
    parts.append(text(16, TOP + HEIGHT / 2, y, "middle", turned))

    for i, (name, points) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], 5 * (i // len(COLOURS))  # the seventh is the first, dashed
        stroke = f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
        for run in runs(points):
            places = [f"{across(a):.1f},{down(b):.1f}" for a, b in run]
            if len(run) > 1:
                parts.append(f'<polyline fill="none" {stroke} points="{" ".join(places)}"/>')
            if len(run) == 1 or len(points) <= FEW:
                centres = (place.split(",") for place in places)
                parts += [f'<circle cx="{a}" cy="{b}" r="3" fill="{colour}"/>' for a, b in centres]
        height = TOP + 10 + 20 * i
        parts.append(line(right + 12, height, right + 36, height, stroke))
        parts.append(text(right + 42, height + 4, name, "start"))

    width = right + 60 + 8 * max(map(len, series), default=0)  # room for the legend
    height = max(bottom + 60, TOP + 20 * len(series))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="{GREY}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def runs(points) -> list[list[tuple[float, float]]]:
    """The stretches of points between those that are not finite."""
    stretches = [[]]
    for point in points:
        if all(map(math.isfinite, point)):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [s for s in stretches if s]


def limits(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 10 or 1.0  # constant, but for rounding: it lies in the middle
    return low - room, high + room


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Two to seven round values between the limits, 1, 2 or 5 times a power of ten apart, and labels."""
    power = math.floor(math.log10((high - low) / 6))
    steps = [(1, power), (2, power), (5, power), (1, power + 1)]
    step, power = next((k * 10.0**p, p) for k, p in steps if (high - low) / (k * 10.0**p) <= 6)
    form = f".{max(0, -power)}f" if -5 <= power <= 6 else ".3g"
    values = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, f"{value:{form}}") for value in values]


def line(x1, y1, x2, y2, style="") -> str:
    stroke = "" if "stroke=" in style else f'stroke="{GREY}" '
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}{style}/>'


def text(x, y, words, anchor, style="") -> str:
    words = "".join(c if c.isprintable() else " " for c in str(words))  # XML has no control characters
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style}>{escape(words)}</text>'
