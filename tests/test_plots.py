"""Pictures are well-formed and say what the numbers say. Run me: pytest tests/test_plots.py"""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minift.plots import COLOURS, GREY, HEIGHT, LEFT, TOP, WIDTH, curves, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawn(series, title="title", **axes):
    """The picture as (its tree, polylines as lists of points, circles as points, texts)."""
    tree = ElementTree.fromstring(curves(series, title, **axes))
    lines = [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in tree.iter(f"{SVG}polyline")]
    circles = [(float(e.get("cx")), float(e.get("cy"))) for e in tree.iter(f"{SVG}circle")]
    return tree, lines, circles, [e.text for e in tree.iter(f"{SVG}text")]


def test_points_lie_where_the_axes_say():
    _, lines, _, texts = drawn({"train": [(0, 3.0), (50, 2.0), (100, 1.0)]}, "run 1", y="nats")
    assert lines == [[(LEFT, TOP), (LEFT + WIDTH / 2, TOP + HEIGHT / 2), (LEFT + WIDTH, TOP + HEIGHT)]]
    assert texts == [
        *("run 1", "0", "20", "40", "60", "80", "100"),
        *("1.0", "1.5", "2.0", "2.5", "3.0", "step", "nats", "train"),
    ]


def test_each_series_has_a_line_in_its_own_colour_and_a_place_in_the_legend():
    names = [f"series {i}" for i in range(8)]
    tree, lines, _, texts = drawn({name: [(0, i), (1, i + 1)] for i, name in enumerate(names)})
    assert len(lines) == 8 and texts[-8:] == names
    styles = [(e.get("stroke"), e.get("stroke-dasharray")) for e in tree.iter(f"{SVG}polyline")]
    assert len(set(styles)) == 8
    legend = [e for e in tree.iter(f"{SVG}line") if e.get("stroke") in COLOURS]
    assert [(e.get("stroke"), e.get("stroke-dasharray")) for e in legend] == styles


def test_few_points_are_marked_and_many_are_not():
    assert len(drawn({"a": [(i, i) for i in range(20)]})[2]) == 20
    assert len(drawn({"a": [(i, i) for i in range(21)]})[2]) == 0


def test_a_nan_interrupts_the_line():
    points = [(i, math.nan if i in (3, 5, 6) else float(i)) for i in range(40)]
    _, lines, circles, _ = drawn({"a": points, "gone": [(0, math.inf), (1, math.nan)]})
    assert [len(line) for line in lines] == [3, 33]
    assert len(circles) == 1  # step 4 stands alone; as a line it would be invisible


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e30])
def test_one_point_and_a_constant_series_are_in_the_middle(value):
    middle = TOP + HEIGHT / 2
    assert drawn({"a": [(5, value)]})[2] == [(LEFT + WIDTH / 2, middle)]
    assert drawn({"a": [(0, value), (1, value)]})[1] == [[(LEFT, middle), (LEFT + WIDTH, middle)]]


def test_nothing_to_draw_is_an_empty_frame():
    for series in ({}, {"a": []}, {"a": [(1, math.nan)]}):
        _, lines, circles, _ = drawn(series)
        assert lines == circles == []


def test_names_are_escaped():
    odd = 'a<b> & "c" \' ä'
    texts = drawn({odd: [(0, 1)]}, f"{odd}\x00\x1b", x=odd, y=odd)[3]
    assert texts.count(odd) == 3 and texts[0] == odd + "  "


@settings(deadline=None, max_examples=300)
@given(st.floats(-1e30, 1e30), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_few_and_within_the_limits(low, width):
    high = low + width * max(1.0, abs(low))
    found = ticks(low, high)
    values, labels = zip(*found, strict=True)
    step = values[1] - values[0]
    assert 2 <= len(found) <= 7
    assert low - step / 1e3 <= values[0] and values[-1] <= high + step / 1e3
    assert re.fullmatch(r"[125]\.0*e.*", f"{step:.6e}")
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(values))
    if max(abs(low), abs(high)) < 1e6 and width > 1e-3:
        assert [float(label) for label in labels] == pytest.approx(values, rel=1e-9, abs=1e-9)


def test_labels_have_the_decimals_of_the_step():
    assert [label for _, label in ticks(0.2, 0.3)] == ["0.20", "0.22", "0.24", "0.26", "0.28", "0.30"]
    assert [label for _, label in ticks(0, 12000)] == ["0", "2000", "4000", "6000", "8000", "10000", "12000"]
    assert [label for _, label in ticks(0, 6e-9)][:3] == ["0", "1e-09", "2e-09"]


def test_colours_stand_out_on_white_and_on_black():
    def luminance(colour):  # of the WCAG, by which the contrast is (a + 0.05) / (b + 0.05)
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in [*COLOURS, GREY]:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, colour
        assert (luminance(colour) + 0.05) / 0.05 >= 3, colour
