"""Cases are made once a session: lowering a network takes seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache

import pytest

from targets import registry
from targets.base import Target

from .case import Case, Network, make_network


@pytest.fixture(scope="session")
def network_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Network]:
    """Network by name."""
    return cache(lambda name: make_network(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def installed() -> Callable[[str], Target]:
    """Target by name; one whose packages are not installed is skipped, and says which."""

    def load(name: str) -> Target:
        target = registry.load(name)
        lacking = registry.missing(target)
        if lacking:
            pytest.skip(str(registry.missing_error(target, lacking)))
        programs = [name for name in getattr(target, "programs", ()) if shutil.which(name) is None]
        if programs:
            pytest.skip(f"{name} needs the programs {', '.join(programs)}")
        return target

    return cache(load)


@pytest.fixture(scope="session")
def case_of(
    network_of: Callable[[str], Network], installed: Callable[[str], Target], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Case]:
    """Case by target and network."""
    return cache(
        lambda target, name: Case(installed(target), network_of(name), tmp_path_factory.mktemp(f"{target}-{name}"))
    )
