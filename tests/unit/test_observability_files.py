"""Dashboards and alerts ask for metrics that exist."""

import re
from pathlib import Path

import pytest

from engine.settings import project_root
from observability.metrics import METRICS

FOLDER = project_root() / "observability"
FILES = [FOLDER / "grafana/dashboards/ticket-rush.json", FOLDER / "prometheus/rules.yml"]


def _exposed() -> set[str]:
    names = set()
    for metric in METRICS:
        match metric.type:
            case "counter":
                names.add(metric.name.removesuffix("_total") + "_total")
            case "gauge":
                names.add(metric.name)
            case "histogram":
                names |= {metric.name + suffix for suffix in ("_bucket", "_count", "_sum")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    asked = set(
        re.findall(r"\b[a-z]+(?:_[a-z]+)+_(?:total|bucket|entries|flight|violations|cells|seconds)\b", text)
    )
    assert asked
    assert asked <= _exposed()
