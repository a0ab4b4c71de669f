"""These tests need packages and compilers that not everybody has: skipped there, required by `make test-mcu`."""

import importlib.util
import os
import shutil

import pytest

REQUIRED = os.environ.get("MCU_REQUIRED") == "1"


def need(*, packages: tuple[str, ...] = (), programs: tuple[str, ...] = ()) -> None:
    """Skip the module where something is missing; fail it in the lane that must have all."""
    lacking = [p for p in packages if importlib.util.find_spec(p) is None]
    lacking += [p for p in programs if shutil.which(p) is None]
    if lacking and REQUIRED:
        pytest.fail(f"missing: {', '.join(lacking)}", pytrace=False)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)} (`make test-mcu` brings them)", allow_module_level=True)


@pytest.fixture(scope="session")
def host_tools() -> None:
    """gcc and the oracle."""
    need(packages=("ai_edge_litert", "tflite_micro"), programs=("gcc",))


@pytest.fixture(scope="session")
def arm_tools() -> None:
    """The cross compiler, the emulator, the serial port and the oracle."""
    need(packages=("ai_edge_litert", "tflite_micro"), programs=("arm-none-eabi-gcc", "qemu-system-arm"))
