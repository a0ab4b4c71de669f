"""Shared by all tests: Hypothesis without a deadline, since these run on busy machines."""

from hypothesis import settings

settings.register_profile("patient", deadline=None, derandomize=True)
settings.load_profile("patient")
