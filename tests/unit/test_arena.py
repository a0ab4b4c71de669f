"""The memory plan as a picture: a box for each buffer, to scale, time across and bytes down."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pipeline.release.html import arena

PLAN = [
    {"name": "x <1>", "kind": "input", "offset": 0, "bytes": 100, "first": 0, "last": 1},
    {"name": "y", "kind": "output", "offset": 100, "bytes": 300, "first": 1, "last": 3},
    {"name": "scratch of op 0", "kind": "scratch", "offset": 0, "bytes": 50, "first": 2, "last": 2},
]
SVG = "{http://www.w3.org/2000/svg}"


def test_boxes_are_to_scale_and_named() -> None:
    root = ET.fromstring(arena.alone("model & co", PLAN, 400))
    boxes = root.findall(f"{SVG}rect")
    heights = [float(box.attrib["height"]) for box in boxes]
    assert [round(height / heights[0], 2) for height in heights] == [1.0, 3.0, 0.5]
    widths = [float(box.attrib["width"]) + 1 for box in boxes]
    assert [round(width / widths[2]) for width in widths] == [2, 3, 1]
    assert float(boxes[1].attrib["y"]) == float(boxes[0].attrib["y"]) + heights[0]
    titles = [box.findtext(f"{SVG}title") for box in boxes]
    assert titles[0] == "x <1>: input, 100 bytes from 0"
    assert "model & co" in root.attrib["aria-label"]


def test_an_empty_plan_is_a_picture_too() -> None:
    assert not ET.fromstring(arena.alone("empty", [], 0)).findall(f"{SVG}rect")
