"""Shared by all tests: Hypothesis without a deadline, since these run on busy machines; `--require-devices`."""

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None, derandomize=True)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-devices", action="store_true", help="a stand-in device that cannot be made fails its tests"
    )
