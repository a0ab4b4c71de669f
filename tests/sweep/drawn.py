"""The long form of the drawn networks, part of `make test-sweep`: resumable, in build/sweep/networks.jsonl.

A network is "right" on a target where float is PyTorch's and int8 is near its simulation, and where pruned it is its
masked one; "fault" says what is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from .blocks import Plan, plans
from .run import BUILD, MEMORY, PATIENCE, TARGETS, key

PRUNED = "pruning"  # in the place of a target


def drawn(count: int) -> list[Plan]:
    """The first so many networks of the grammar, always the same."""
    found: list[Plan] = []

    @seed(0)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(plans)
    def collect(plan: Plan) -> None:
        found.append(plan)

    collect()
    return list(dict.fromkeys(found))


def judged(plan: Plan, targets: Sequence[str]) -> list[dict[str, Any]]:
    """How a network ends, pruned and on each target."""
    from targets import registry

    from . import random_networks as networks

    rows: list[dict[str, Any]] = []

    def tried(what: str, work: Any) -> None:
        try:
            why = work()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        rows.append({"target": what, "end": "fault" if why else "right", "why": " ".join(why.split())[:600]})

    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        drawing = networks.Drawing(plan, Path(folder))

        def pruned() -> str:
            apart, _ = networks.pruned_apart(drawing)
            return "" if apart <= networks.PRUNED_APART else f"pruned is {apart:.2g} of the largest output from masked"

        def on(target: str) -> str:
            case = networks.case_of(drawing, registry.load(target))
            low = [
                f"float '{n}' {v:.1f} dB"
                for n, v in networks.float_parity(drawing, case).items()
                if v < networks.FLOAT_DB
            ]
            for name, level in networks.int8_parity(drawing, case).items():
                simulated = drawing.simulated_db[name]
                if level < simulated - networks.BELOW_SIMULATION_DB:
                    low.append(f"int8 '{name}' {level:.1f} dB, simulated {simulated:.1f}")
            return "; ".join(low)

        if PRUNED in targets:
            tried(PRUNED, pruned)
        for target in targets:
            if target != PRUNED:
                tried(target, lambda target=target: on(target))
    return rows


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def pool() -> ProcessPoolExecutor:
    """One process at a time, replaced after a few networks."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_limited, max_tasks_per_child=8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    told = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "networks.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {(row["plan"], row["target"], row["key"]): row for row in map(json.loads, lines)}
    keys = {name: key(name) for name in TARGETS} | {PRUNED: key("onnxruntime")}
    every, running = [], pool()
    for plan in drawn(told.count):
        name = hashlib.sha256(repr(plan).encode()).hexdigest()[:12]
        every += [known[name, t, keys[t]] for t in keys if (name, t, keys[t]) in known]
        lacking = [t for t in keys if (name, t, keys[t]) not in known]
        if not lacking:
            continue
        try:
            rows = running.submit(judged, plan, lacking).result(PATIENCE)
        except Exception as error:  # it died or says nothing
            rows = [{"target": t, "end": "fault", "why": f"{type(error).__name__}: {error}"} for t in lacking]
            running.shutdown(wait=False, cancel_futures=True)
            running = pool()
        for row in rows:
            row |= {"plan": name, "network": repr(plan), "key": keys[row["target"]]}
            every.append(row)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
    running.shutdown()
    for target in keys:
        ends = Counter(row["end"] for row in every if row["target"] == target)
        print(f"{target}: {sum(ends.values())} networks, {dict(ends)}")
    for row in every:
        if row["end"] == "fault":
            print(f"FAULT {row['target']} {row['network']}: {row['why']}")
    return any(row["end"] == "fault" for row in every)


if __name__ == "__main__":
    sys.exit(main())
