"""The generated folder in other people's builds: CMake, threads, strict compilers for the boards' own cores."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert")

from targets.cortex_m import boards, compiled, emit
from tests.mcu import host, random_graphs
from tests.mcu.conftest import need

# Two threads, an arena each, both models run many times from inputs of their own; each must get what it gets alone.
THREADS = """
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include "model.h"
#define RUNS 200
static int32_t arenas[2][MODEL_ARENA_BYTES / 4 + 1];
static int8_t want[2][MODEL_OUTPUT_0_BYTES];
static int wrong[2];
static void once(int who)
{
    int8_t *const arena = (int8_t *)arenas[who];
    memset(model_input_0(arena), 17 + 40 * who, MODEL_INPUT_0_BYTES);
    model_run(arena);
}
static void *many(void *argument)
{
    const int who = *(const int *)argument;
    for (int run = 0; run < RUNS; run++) {
        once(who);
        wrong[who] += memcmp(model_output_0((int8_t *)arenas[who]), want[who], MODEL_OUTPUT_0_BYTES) != 0;
    }
    return NULL;
}
int main(void)
{
    static int names[2] = {0, 1};
    pthread_t threads[2];
    for (int who = 0; who < 2; who++) {
        once(who);
        memcpy(want[who], model_output_0((int8_t *)arenas[who]), MODEL_OUTPUT_0_BYTES);
    }
    for (int who = 0; who < 2; who++) {
        if (pthread_create(&threads[who], NULL, many, &names[who]) != 0) return 2;
    }
    for (int who = 0; who < 2; who++) {
        pthread_join(threads[who], NULL);
    }
    return wrong[0] != 0 || wrong[1] != 0;
}
"""


def test_two_threads_with_an_arena_each(tmp_path: Path) -> None:
    """Under ThreadSanitizer, which names any byte that both touch."""
    need(programs=("gcc",))
    made = host.generate(random_graphs.graph(1), tmp_path)
    (tmp_path / "threads.c").write_text(THREADS)
    sources = [str(tmp_path / "threads.c"), *map(str, (tmp_path / "c").glob("*.c"))]
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{tmp_path / 'c'}"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(tmp_path / "threads")], check=True)
    done = subprocess.run(
        [*host.FIXED_ADDRESSES, str(tmp_path / "threads")], check=False, timeout=120, capture_output=True, text=True
    )
    assert made.plan.arena_bytes > 0
    assert done.returncode == 0, done.stderr[-1000:]


def test_cmake_builds_it_below_another_project(tmp_path: Path) -> None:
    need(programs=("cmake", "make", "gcc"))
    host.generate(random_graphs.graph(0), tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(firmware C)\nadd_subdirectory(c)\n"
        "add_executable(firmware main.c)\ntarget_link_libraries(firmware model)\n"
    )
    (tmp_path / "main.c").write_text(
        '#include "model.h"\nstatic int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(4)));\n'
        "int main(void) { model_run(arena); return 0; }\n"
    )
    for words in (["-S", str(tmp_path), "-B", str(tmp_path / "build")], ["--build", str(tmp_path / "build")]):
        done = subprocess.run(["cmake", *words], check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    subprocess.run([str(tmp_path / "build" / "firmware")], check=True, timeout=60)


@pytest.mark.parametrize("language", [("-x", "c", "-std=c99"), ("-x", "c++", "-std=c++11")], ids=["C", "C++"])
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_the_cross_compiler_does_not_warn(core: str, language: tuple[str, ...], tmp_path: Path) -> None:
    need(programs=("arm-none-eabi-gcc",))
    assert core == "cortex-m55" or core in {board.core for board in boards.BOARDS.values()}
    host.generate(random_graphs.graph(0), tmp_path)
    sources = [str(tmp_path / "c" / "model.c"), *sorted(str(path) for path in emit.KERNELS.glob("*.c"))]
    strict = [*language, *host.STRICT, *compiled.flags(core), f"-I{tmp_path / 'c'}"]
    subprocess.run(["arm-none-eabi-gcc", *strict, "-c", *sources], check=True, cwd=tmp_path)
