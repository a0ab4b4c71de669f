"""Every published target, on every network, keeps every promise of checks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from targets import registry

from . import checks
from .case import Case
from .networks import NETWORKS

TARGETS = registry.names()


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_target(case_of: Callable[[str, str], Case], target: str, network: str, check: Callable[[Case], None]) -> None:
    check(case_of(target, network))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_are_deterministic(case_of: Callable[[str, str], Case], target: str) -> None:
    checks.bytes_are_deterministic(case_of(target, "conv_bn_relu"))
