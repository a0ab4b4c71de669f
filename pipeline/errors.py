"""Errors that end a run: one clear line each, and the exit code that belongs to it."""

from __future__ import annotations

PASS, GATE_FAILED, USAGE, INCONCLUSIVE, DEVICE, STAGE_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
TERMINATED = 143  # by SIGTERM, or since the terminal went away (SIGHUP)

# With several outcomes in one run, the first of these that occurred is the exit code.
PRECEDENCE = (TERMINATED, INTERRUPTED, STAGE_FAILED, DEVICE, USAGE, GATE_FAILED, INCONCLUSIVE, PASS)


class DeployError(Exception):
    """What, where, what to do, in one line."""

    exit_code = STAGE_FAILED


class UsageError(DeployError):
    """The user's input (recipe, checkpoint, data, model, option) cannot be used."""

    exit_code = USAGE


class StageError(DeployError):
    """A stage broke on input that looked right."""

    exit_code = STAGE_FAILED


class DeviceError(DeployError):
    """A device or the way to it failed."""

    exit_code = DEVICE


class EvidenceError(DeployError):
    """Something that a verdict needs is missing, NaN, or not what was verified."""

    exit_code = GATE_FAILED
