"""The alerts and the dashboard, as the tests read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml

from tests import deployment

RULES = deployment.ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = deployment.ROOT / "deploy/grafana/listing-dedup.json"
Selector = tuple[str, frozenset[str]]
"""A metric's name, and the labels that an expression chooses it by."""


def rules() -> list[dict[str, Any]]:
    """All rules, alerts and recorded ones."""
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Metrics that Prometheus makes itself, by the rules."""
    return {rule["record"] for rule in rules() if "record" in rule}


def panels() -> Iterator[dict[str, Any]]:
    """The dashboard's panels that show something."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    """Every expression of the rules and the dashboard, Grafana's variables filled in."""
    of_dashboard = (target["expr"] for panel in panels() for target in panel["targets"])
    return [rule["expr"] for rule in rules()] + [
        re.sub(r"\$__\w+", "5m", expression) for expression in of_dashboard
    ]


def selectors(expression: str) -> set[Selector]:
    """Every metric that an expression of PromQL reads (ValueError: it is none)."""
    return set(_selectors(promql_parser.parse(expression)))


def _selectors(node: Any) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        # Unnamed, it would be all that there is.
        assert node.name is not None
        yield node.name, frozenset(matcher.name for matcher in node.matchers.matchers)
        return
    for name in ("lhs", "rhs", "expr", "param", "vector_selector", "vs", "args"):
        inner = getattr(node, name, None)
        for item in inner if isinstance(inner, list) else [inner]:
            if isinstance(item, promql_parser.Expr):
                yield from _selectors(item)
