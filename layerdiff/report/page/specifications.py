"""What the plots of the page look like: Vega-Lite specifications, whose data sets are filled by `charts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REFERENCE, CANDIDATE = "#3b82c4", "#e0662f"
"""The two sides; both are told apart from white, from black and from each other, also without red or green."""
STATUS = {"pass": "#2f9e63", "fail": "#d6453d", "unknown": "#b8860b", "skipped": "#888888"}


def _x(field: str, title: str | None, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _log(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"type": "log"}, **more}


def _sides(**more: Any) -> dict[str, Any]:
    scale = {"domain": ["reference", "candidate"], "range": [REFERENCE, CANDIDATE]}
    return {"field": "side", "type": "nominal", "title": None, "scale": scale, "legend": {"orient": "top"}, **more}


def _lines(order: Sequence[str]) -> dict[str, Any]:
    return {"field": "kind", "type": "nominal", "title": None, "sort": list(order), "legend": {"orient": "top"}}


ERRORS = ("total", "own", "inherited", "conversion", "precision")
_SIGNED = {"domainMid": 0, "range": [CANDIDATE, "#e9e9e9", REFERENCE]}

TEMPLATES: Mapping[str, Mapping[str, Any]] = {
    "depth": {
        "height": 240,
        "layer": [
            {
                "data": {"name": "errors"},
                "mark": {"type": "line", "interpolate": "linear", "strokeWidth": 1.5},
                "encoding": {
                    "x": _x("place", "stage, in order of execution", axis={"tickMinStep": 1}),
                    "y": _log("error", "relative L2 error", axis={"format": ".0e"}),
                    "color": _lines(ERRORS),
                    "strokeDash": _lines(ERRORS) | {"legend": None},
                },
            },
            {
                "data": {"name": "stages"},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "cursor": "pointer"},
                "encoding": {
                    "x": _x("place", None),
                    "y": _log("error", "relative L2 error"),
                    "fill": {
                        "field": "status",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": list(STATUS), "range": list(STATUS.values())},
                        "legend": {"orient": "top"},
                    },
                    "href": {"field": "link"},
                    "tooltip": [
                        {"field": "stage"},
                        {"field": "status"},
                        {"field": "measured", "title": "relative L2 error"},
                    ],
                },
            },
        ],
    },
    "values": {
        "title": "values",
        "height": 150,
        "data": {"name": "bins"},
        "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.35, "line": {"strokeWidth": 1.2}},
        "encoding": {
            "x": _x("value", "value"),
            "y": _x("count", "elements", stack=None),
            "color": _sides(),
            "tooltip": [{"field": "value", "type": "quantitative"}, {"field": "count"}, {"field": "side"}],
        },
    },
    "errors": {
        "title": "errors",
        "height": 150,
        "data": {"name": "bins"},
        "mark": {"type": "rect", "color": CANDIDATE},
        "encoding": {
            "x": _log("low", "absolute error", axis={"format": ".0e", "tickCount": 6}),
            "x2": {"field": "high"},
            "y": _x("count", "elements"),
            "y2": {"datum": 0},
            "tooltip": [{"field": "low", "title": "from"}, {"field": "high", "title": "to"}, {"field": "count"}],
        },
    },
    "course": {
        "title": "error along time",
        "height": 150,
        "data": {"name": "places"},
        "mark": {"type": "line", "color": CANDIDATE, "strokeWidth": 1.2, "point": {"size": 14, "color": CANDIDATE}},
        "encoding": {
            "x": _x("place", None),
            "y": _x("error", "relative L2 error"),
            "tooltip": [{"field": "place"}, {"field": "error"}],
        },
    },
    "magnitude": {
        "title": "error against magnitude",
        "height": 150,
        "data": {"name": "sizes"},
        "mark": {"type": "line", "point": {"size": 14}, "strokeWidth": 1.2},
        "encoding": {
            "x": _log("size", "size of the reference's value", axis={"format": ".0e", "tickCount": 6}),
            "y": _log("error", "absolute error, at most", axis={"format": ".0e", "tickCount": 6}),
            "color": _lines(["half of them", "nine of ten", "all"]),
            "tooltip": [{"field": "size"}, {"field": "error"}, {"field": "kind"}, {"field": "count"}],
        },
    },
    "map": {
        "data": {"name": "logits"},
        "facet": {"row": {"field": "side", "title": None, "sort": ["reference", "candidate"]}},
        "spec": {
            "height": 110,
            "params": [{"name": "zoom", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"}],
            "mark": {"type": "rect"},
            "encoding": {
                "x": _x("frame", "encoder frame", scale={"nice": False}, axis={"tickCount": 10}),
                "x2": {"field": "end"},
                "y": {"field": "duration", "type": "ordinal", "title": "duration", "sort": "descending"},
                "color": _x("logit", "logit", scale=_SIGNED),
                "tooltip": [
                    {"field": "time", "title": "s"},
                    {"field": "step"},
                    {"field": "duration"},
                    {"field": "logit"},
                    {"field": "side"},
                ],
            },
        },
    },
    "timeline": {
        "vconcat": [
            {
                "height": 70,
                "data": {"name": "wave"},
                "mark": {"type": "area", "color": "#8a8a8a"},
                "encoding": {
                    "x": _x("time", None, axis=None),
                    "y": _x("low", "audio", axis=None),
                    "y2": {"field": "high"},
                },
            },
            {
                "height": 22,
                "data": {"name": "words"},
                "mark": {"type": "text", "align": "left", "fontSize": 12},
                "encoding": {"x": _x("time", None, axis=None), "text": {"field": "word"}},
            },
            {
                "height": 60,
                "params": [{"name": "zoom", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"}],
                "data": {"name": "decisions"},
                "mark": {"type": "bar", "height": 18, "stroke": "#ffffff", "strokeWidth": 0.5},
                "encoding": {
                    "x": _x("time", "time, s", axis={"tickCount": 10, "grid": False}),
                    "x2": {"field": "end"},
                    "y": {"field": "side", "type": "nominal", "title": None, "sort": ["reference", "candidate"]},
                    "color": {
                        "field": "kind",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": ["token", "blank", "changed"], "range": [REFERENCE, "#a9a9a9", CANDIDATE]},
                        "legend": {"orient": "bottom"},
                    },
                    "tooltip": [
                        {"field": "token"},
                        {"field": "duration"},
                        {"field": "step"},
                        {"field": "time", "title": "s"},
                    ],
                },
            },
        ],
        "resolve": {"scale": {"x": "shared"}},
        "spacing": 2,
    },
    "graph": {
        "layer": [
            {
                "data": {"name": "edges"},
                "mark": {"type": "rule", "opacity": 0.6},
                "encoding": {
                    "x": _x("lane", None, axis=None),
                    "y": _x("place", None, axis=None),
                    "x2": {"field": "lane2"},
                    "y2": {"field": "place2"},
                },
            },
            {
                "data": {"name": "ops"},
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                "encoding": {
                    "x": _x("lane", None, axis=None, scale={"nice": False, "zero": False}),
                    "y": _x("place", None, axis=None, scale={"reverse": True, "padding": 14, "nice": False}),
                    "color": {
                        "field": "status",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": ["not compared", *STATUS], "range": ["#8a8a8a", *STATUS.values()]},
                        "legend": {"orient": "top"},
                    },
                    "tooltip": [{"field": name} for name in ("name", "op", "dtype", "shape", "stage", "status")],
                },
            },
            {
                "data": {"name": "ops"},
                "mark": {"type": "text", "align": "left", "fontSize": 12},
                "encoding": {"x": _x("label_lane", None), "y": _x("place", None), "text": {"field": "label"}},
            },
            {
                "data": {"name": "ends"},
                "mark": {"type": "point", "opacity": 0},
                "encoding": {"x": _x("lane", None)},
            },
        ],
    },
}
"""Name → specification without its data."""
