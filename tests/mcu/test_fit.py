"""`deploy fit`: figures by cause, the exit code at the very byte, one line for bad input."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("ai_edge_litert")

from pipeline.cli import app
from targets.base import TargetError
from targets.cortex_m import boards, compiled, emit, emulator, fit, lower, program
from tests.mcu import host, random_graphs
from tests.mcu.conftest import need


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(random_graphs.graph(0))
    return path


def deploy(*words: object):
    return CliRunner().invoke(app, ["fit", *map(str, words)])


def test_exit_code_turns_at_the_byte(model: Path) -> None:
    made = program.compile_file(model)
    whole = fit.fit(made, 1 << 30, 1 << 30, 100)
    flash, ram = whole.flash.used_bytes, whole.ram.used_bytes
    assert ram == made.plan.arena_bytes + 100
    for more, less, code in ((0, 0, 0), (-1, 0, 1), (0, -1, 1)):
        done = deploy(model, "--flash", flash + more, "--ram", ram + less, "--stack", 100, "--json")
        assert done.exit_code == code, done.output
        found = json.loads(done.stdout)
        assert found["fits"] is (code == 0)
        assert found["flash"]["headroom_bytes"] == more
        assert found["ram"]["headroom_bytes"] == less
        assert set(found["shrink"]) == ({"flash"} if more else {"ram"} if less else set())


def test_nothing_is_written_where_it_does_not_fit(model: Path, tmp_path: Path) -> None:
    assert deploy(model, "--flash", "1K", "--ram", "1K", "--out", tmp_path / "c").exit_code == 1
    assert not (tmp_path / "c").exists()
    assert deploy(model, "--board", "nucleo-l4r5zi", "--out", tmp_path / "c").exit_code == 0
    assert (tmp_path / "c" / "model.c").is_file()
    drawn = ET.parse(tmp_path / "c" / emit.PICTURE).getroot()
    boxes = drawn.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == len(program.compile_file(model).plan.buffers)
    assert emit.PICTURE in (tmp_path / "c" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--board", "toaster"], "no board 'toaster': there are nucleo-l4r5zi"),
        (["--flash", "256K"], "say what there is: --board NAME, or --flash 256K --ram 64K"),
        (["--flash", "lots", "--ram", "64K"], "--flash 'lots' is not a number of bytes"),
        (["--board", "microbit-v2", "--stack", "-1"], "--stack '-1' is not a number of bytes"),
    ],
)
def test_bad_options_are_one_line(model: Path, words: list[str], message: str) -> None:
    done = deploy(model, *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    done = deploy(tmp_path / "none.tflite", "--board", "microbit-v2")
    assert done.exit_code == 2
    assert f"no file at {tmp_path / 'none.tflite'}" in done.stderr


def test_tables_are_complete() -> None:
    assert set(fit.KERNEL_CODE_BYTES) == {p.stem for p in emit.KERNELS.glob("*.c")}
    assert set(lower.IN_PLACE) <= set(fit.KERNEL_CODE_BYTES)
    assert all(b.source and b.checked and b.flash_bytes > b.ram_bytes > 0 for b in boards.BOARDS.values())


def test_estimate_against_the_compiler(model: Path, tmp_path: Path) -> None:
    """Never below what arm-none-eabi-gcc makes of it, and at most a fifth of the code (or 256 bytes) above."""
    need(programs=("arm-none-eabi-gcc",))
    made = program.compile_file(model)
    folder = emit.write(made, tmp_path / "c")
    text = 0
    for source in sorted(folder.glob("*.c")):
        command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2", "-std=c99", "-c", str(source)]
        strict = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
        subprocess.run([*command, *strict, "-o", str(tmp_path / "object.o")], check=True)
        table = subprocess.run(
            ["arm-none-eabi-size", str(tmp_path / "object.o")], check=True, capture_output=True, text=True
        )
        text += int(table.stdout.splitlines()[1].split()[0])
    flash = fit.fit(made, 1 << 30, 1 << 30).flash
    code = flash.used["code (estimate)"]
    assert text <= flash.used_bytes <= text + max(256, code // 5)


GRAPH = """\
node: { title: "model_run" label: "model_run\\nmodel.c:9:6\\n8 bytes (static)" }
node: { title: "nn_a" label: "nn_a\\nnn.h:1:6" shape : ellipse }
node: { title: "nn_b" label: "nn_b\\nnn.h:2:6" shape : ellipse }
edge: { sourcename: "model_run" targetname: "nn_a" label: "model.c:10:5" }
edge: { sourcename: "model_run" targetname: "nn_b" label: "model.c:11:5" }
node: { title: "nn_a" label: "nn_a\\nnn_a.c:9:6\\n40 bytes (static)" }
node: { title: "nn_b" label: "nn_b\\nnn_b.c:9:6\\n16 bytes (static)" }
node: { title: "c/nn_b.c:inner" label: "inner\\nnn_b.c:3:6\\n20 bytes (static)" }
edge: { sourcename: "nn_b" targetname: "c/nn_b.c:inner" label: "nn_b.c:10:5" }
edge: { sourcename: "c/nn_b.c:inner" targetname: "memcpy" label: "nn_b.c:4:5" }
"""


def test_the_deepest_path_of_a_call_graph() -> None:
    libc = compiled.LIBC_BYTES
    assert compiled.deepest(GRAPH, "model_run") == [("model_run", 8), ("nn_b", 16), ("inner", 20), ("memcpy", libc)]
    with pytest.raises(TargetError, match="nn_b calls itself"):
        compiled.deepest(GRAPH + 'edge: { sourcename: "c/nn_b.c:inner" targetname: "nn_b" label: "" }', "model_run")


@pytest.mark.parametrize("machine", ["mps2-an386", "mps3-an547"])
def test_computed_stack_bounds_the_measured_one(machine: str, tmp_path: Path) -> None:
    """What a run uses on the board is the firmware's own frames, under 200 bytes, and the model's path at most."""
    pytest.importorskip("serial")
    need(programs=("arm-none-eabi-gcc", "qemu-system-arm"))
    made = host.generate(random_graphs.graph(0), tmp_path)
    computed = compiled.measure(made, emulator.MACHINES[machine].core).stack_bytes
    with emulator.boot(emulator.build(made, machine, tmp_path), made, machine) as board:
        measured = board.run(bytes(made.graph.inputs[0].size)).stack_bytes
    assert measured - 200 < computed <= measured + compiled.LIBC_BYTES


@pytest.mark.parametrize("core", sorted({board.core for board in boards.BOARDS.values()}))
def test_every_boards_core_is_compiled_for(core: str, model: Path) -> None:
    need(programs=("arm-none-eabi-gcc",))
    assert compiled.measure(program.compile_file(model), core).stack[0][0] == "model_run"
