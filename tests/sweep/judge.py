"""What becomes of forms on a target: right, refused before any work, refused by the runtime by name, or a fault."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.metrics import sqnr_db
from pipeline import interface
from pipeline.errors import UsageError
from pipeline.op_table import base_name, check_calls
from pipeline.stages import Job, export
from pipeline.stages.lower import PARITY_DB
from targets import registry
from targets.base import Program, TargetError

from . import network
from .forms import Case

SAMPLES = 3
CHECKS = {"aten._assert_tensor_metadata"}  # no arithmetic
RIGHT, REFUSED, RUNTIME, FAULT = "right", "refused", "runtime", "fault"


@dataclass(frozen=True)
class End:
    """How a form ended on a target. `why`: the message, or the parity in dB."""

    case: Case
    target: str
    end: str
    why: str


class Network:
    """Some forms in one network, exported once; a program of a kind is made when first asked for."""

    def __init__(self, cases: Sequence[Case], folder: Path) -> None:
        self.cases, self.folder = list(cases), folder
        folder.mkdir(parents=True)
        self.file = folder / f"net_{abs(hash(str(folder))) % 10**8}.py"
        self.places = network.write(cases, self.file)
        names = sorted({name for case in cases for name in network.inputs_of(case)})
        self.inputs = {n: t.numpy() for n, t in network.samples(names, SAMPLES).items()}

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Of the export stage. Raises UsageError."""
        module = interface.adapt(network.load(self.file), tuple(self.inputs))
        (self.folder / "pt2").mkdir(exist_ok=True)
        return export.export(module, self.inputs, self.folder / "pt2")

    def program(self, kind: str) -> Program:
        assert self.metadata
        if kind == "onnx" and not (self.folder / "onnx").exists():
            (self.folder / "onnx").mkdir()
            export.onnx(Job("export", {}, {"program": self.folder / "pt2"}, self.folder / "onnx", 0))
        return export.read_program(self.folder / kind)

    def calls(self, case: int) -> list[dict[str, Any]]:
        """The calls that a form's own line makes."""
        return [call for call in self.metadata["calls"] if self.owner(call["line"]) == case]

    def owner(self, text: str) -> int | None:
        """The form whose source line a message names."""
        lines = re.findall(rf"{self.file.stem}\.py:(\d+)", text)
        return next((self.places[int(n)] for n in lines if int(n) in self.places), None)

    @cached_property
    def wanted(self) -> dict[str, Any]:
        with np.load(self.folder / "pt2" / "expected.npz") as file:
            return dict(file)

    def ran(self, target: str) -> dict[int, float]:
        """Form -> parity in dB of what the target's runtime makes of it. Raises TargetError."""
        made, out = registry.load(target), self.folder / target
        out.mkdir()
        model = made.lower(self.program(made.capabilities.program), out)
        step = model.inputs[0].shape[0] or SAMPLES
        with made.open(model, made.candidates(model)[0]) as session:
            rows = [
                session.run({name: array[i : i + step] for name, array in self.inputs.items()})
                for i in range(0, SAMPLES, step)
            ]
        found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        levels: dict[int, float] = {}
        for name, wanted in self.wanted.items():
            case = int(name[1:].partition("_")[0])
            levels[case] = min(levels.get(case, np.inf), _parity(wanted, found[name]))
        return levels


def _parity(wanted: Any, found: Any) -> float:
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return float("-inf")
    return float(sqnr_db(wanted, found))


Work = Callable[[Network], None]
Failing = Callable[[Network, int, str], None]


class Judge:
    """Ends of forms on targets; networks that fail as a whole are told apart by the line that they name, or halved."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self.folder, self.targets, self.made = folder, targets, 0
        self.ends: list[End] = []

    def judge(self, cases: Sequence[Case]) -> list[End]:
        torch.set_num_threads(1)
        self.ends = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._apart(cases, self._all, _Unexportable(self))
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.ends

    def end(self, case: Case, target: str, end: str, why: str) -> None:
        self.ends.append(End(case, target, end, " ".join(why.split())[:600]))

    def _apart(self, cases: Sequence[Case], work: Work, failing: Failing) -> None:
        """Do the work on a network of these forms; where it breaks, without the one that broke it."""
        if not cases:
            return
        self.made += 1
        made = Network(cases, self.folder / str(self.made))
        try:
            work(made)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            culprit = 0 if len(cases) == 1 else made.owner(text)
            print(f"{len(cases)} forms, {culprit}: {' '.join(text.split())[:300]}", file=sys.stderr, flush=True)
            if culprit is not None:
                failing(made, culprit, text)
                self._apart([c for i, c in enumerate(cases) if i != culprit], work, failing)
                return
            if "metadata" not in vars(made):  # torch.export itself: asked for each alone, which takes no conversion
                broken = [i for i in range(len(cases)) if self._unexported(cases[i])]
                for i in broken:
                    failing(made, i, self._unexported(cases[i]))
                if broken:
                    self._apart([c for i, c in enumerate(cases) if i not in broken], work, failing)
                    return
            half = len(cases) // 2
            self._apart(cases[:half], work, failing)
            self._apart(cases[half:], work, failing)
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)

    def _unexported(self, case: Case) -> str:
        """Why a form alone cannot be exported; empty where it can."""
        self.made += 1
        made = Network([case], self.folder / str(self.made))
        try:
            assert made.metadata
        except Exception as error:
            named = made.owner(str(error)) is not None
            return f"{type(error).__name__}: {'' if named else 'no line: '}{error}"
        return ""

    def _all(self, made: Network) -> None:
        """The check of each form on each target, then what is left as one network for targets that take the same."""
        assert made.metadata
        accepted = [self._accepting(made, i) for i in range(len(made.cases))]
        for targets in dict.fromkeys(part for one in accepted for part in one):
            cases = [case for case, parts in zip(made.cases, accepted, strict=True) if targets in parts]
            work, failing = partial(self._lowered, targets=targets), _Failing(self, targets)
            if cases == made.cases:
                try:
                    work(made)
                except Exception as error:
                    print(f"once more: {' '.join(str(error).split())[:300]}", file=sys.stderr, flush=True)
                else:
                    continue
            self._apart(cases, work, failing)

    def _accepting(self, made: Network, i: int) -> list[tuple[str, ...]]:
        """The targets whose check lets a form through, those of one kind of program together."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.targets:
            able = registry.load(name).capabilities
            try:
                check_calls(name, able, made.calls(i))
            except UsageError as error:
                self.end(made.cases[i], name, REFUSED if made.owner(str(error)) == i else FAULT, str(error))
            else:
                found[able.program] = (*found.get(able.program, ()), name)
        return list(found.values())

    def _lowered(self, made: Network, targets: Sequence[str]) -> None:
        """On every one of these targets; one that fails does it again by itself."""
        made.program(registry.load(targets[0]).capabilities.program)
        for target in targets:
            try:
                self._run(made, target)
            except Exception:
                if len(targets) == 1:
                    raise
                self._apart(made.cases, partial(self._run, target=target), _Failing(self, [target]))

    def _run(self, made: Network, target: str) -> None:
        for i, level in made.ran(target).items():
            good = level >= PARITY_DB
            self.end(made.cases[i], target, RIGHT if good else FAULT, f"{level:.1f} dB")


@dataclass(frozen=True)
class _Unexportable:
    """torch.export's own refusal, which `inspect` and the run share: one line with the source line."""

    judge: Judge

    def __call__(self, made: Network, case: int, text: str) -> None:
        named = text.startswith(UsageError.__name__) and "no line: " not in text
        for target in self.judge.targets:
            self.judge.end(made.cases[case], target, REFUSED if named else FAULT, f"export: {text}")


@dataclass(frozen=True)
class _Failing:
    """What a target's own refusal counts as: inspect must not have promised the op, and the message must name it."""

    judge: Judge
    targets: Sequence[str]

    def __call__(self, made: Network, case: int, text: str) -> None:
        try:
            ops = {base_name(call["op"]) for call in made.calls(case)}
        except Exception:
            ops = set()
        named = text.startswith(TargetError.__name__) and (
            made.owner(text) == case or any(op.removeprefix("aten.") in text for op in ops)
        )
        for target in self.targets:
            table = registry.load(target).capabilities.ops
            untested = {op for op in ops - CHECKS if op not in table or table[op].level == "depends"}
            self.judge.end(made.cases[case], target, RUNTIME if named and untested else FAULT, text)
