"""A network is trained to know planted patches; relevance must find them, and answer for the class that is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlslicer_geo.relevance import DEFAULT

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[1] / "benchmarks/relevance.py"
PUBLISHED = "relevance-cam"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARK), "--json", "--rounds", "0", "--methods", PUBLISHED, DEFAULT]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def below(found: dict[str, Any], figure: str, method: str = DEFAULT) -> list[float]:
    """The figure at layer1, layer2 and layer3."""
    return [found["methods"][method][figure][layer] for layer in ("layer1", "layer2", "layer3")]


def test_a_small_network_learns_forty_five_planted_classes(found: dict[str, Any]) -> None:
    assert found["accuracy"] >= 0.97


def test_the_default_method_points_at_the_patch_and_never_calls_it_evidence_against(found: dict[str, Any]) -> None:
    assert min(below(found, "pointing")) >= 0.98
    assert max(below(found, "flipped")) <= 0.01


def test_of_two_patches_the_default_method_finds_the_one_that_was_asked_for(found: dict[str, Any]) -> None:
    assert min(below(found, "two")) >= 0.97
    assert max(below(found, "contrast")) <= -0.5


def test_the_default_method_forgets_its_map_when_the_head_is_shuffled(found: dict[str, Any]) -> None:
    assert max(found["methods"][DEFAULT]["shuffled"].values()) <= 0.2


def test_the_published_start_hardly_notices_that_the_head_is_shuffled(found: dict[str, Any]) -> None:
    assert min(below(found, "shuffled", PUBLISHED)) > 0.8


def test_the_default_map_lies_where_the_patch_is_at_every_depth(found: dict[str, Any]) -> None:
    """Cells that are laid out evenly are off by 13, 6, 3 and 1.5 px, and layer4 points at half of the patches."""
    figures = found["methods"][DEFAULT]
    assert max(map(abs, figures["bias"].values())) <= 3
    assert max(map(abs, figures["peak"].values())) <= 3
    assert min(figures["pointing"].values()) >= 0.98
