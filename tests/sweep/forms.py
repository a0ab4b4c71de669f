"""Every form in which PyTorch accepts an op, from its own schemas and signatures; PyTorch says which are legal."""

from __future__ import annotations

import inspect
import itertools
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from targets import registry

from . import values
from .network import Run, samples

PAIRS = {"conv": 14, "pool": 8, "upsample": 6}  # kinds of ops -> pairs of arguments that are tried together
FEW_PAIRS = 3
MANY = 7  # samples
LARGEST = 50_000  # numbers of an answer
TRIES = 400  # assignments that are tried to find a first legal one


@dataclass(frozen=True)
class Case:
    """`text`: the op's call as a Python expression on x2, y2, x3, ..., ids and w (see values.py). `made`: for a module,
    its construction, for which `text` says m."""

    op: str
    text: str
    made: str = ""

    @property
    def shown(self) -> str:
        """The call as one writes it."""
        return self.text.replace("m(", f"{self.made}(", 1) if self.made else self.text


@dataclass(frozen=True)
class Argument:
    name: str
    choices: tuple[str, ...]
    optional: bool
    positional: bool = False


def rows() -> list[str]:
    """Ops of the targets' capability tables, without "aten."."""
    tables = (registry.load(name).capabilities.ops for name in registry.names())
    return sorted({op.removeprefix("aten.") for table in tables for op in table})


@cache
def cases(op: str) -> tuple[Case, ...]:
    """The legal forms of a row, in a fixed order: each spelling's first one, then one argument changed, then pairs."""
    found: dict[Case, None] = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        known: list[Any] = []
        for spelling in spellings(op):
            there = None if " " in spelling or "." not in spelling else _resolve_or_none(spelling)
            again = there is not None and any(there is one for one in known)  # torch.conv2d is F.conv2d
            known.append(there)
            found.update(dict.fromkeys(itertools.islice(_forms(op, spelling), 2 if again else None)))
    return tuple(found)


def spellings(op: str) -> list[str]:
    """Where PyTorch has the op: functions, methods, in-place ones, modules, operators; else its own aten form."""
    short = re.sub(r"^(linalg|special|fft)_", "", op)
    places = [
        ("torch", torch), ("F", nn.functional), ("torch.linalg", torch.linalg), ("torch.special", torch.special),
        ("torch.fft", torch.fft),
    ]  # fmt: skip
    found = [f"{place}.{name}" for place, owner in places for name in {op, short} if _callable(owner, name)]
    found += [f"Tensor.{name}" for name in (short, f"{short}_") if _callable(Tensor, name)]
    found += [f"F.{short}_"] if _callable(nn.functional, f"{short}_") else []
    plain = short.replace("_", "").lower()
    found += [f"nn.{name}" for name in dir(nn) if name.lower() == plain and inspect.isclass(getattr(nn, name))]
    found += [f"operator.{op}"] if op in values.OPERATORS else []
    found += values.ALIASES.get(op, ())
    return list(dict.fromkeys(found)) or [f"torch.ops.aten.{op}"]


def _callable(owner: Any, name: str) -> bool:
    return callable(getattr(owner, name, None)) and not name.startswith("__")


def _forms(op: str, spelling: str) -> Iterator[Case]:
    if spelling == "X[...]":
        yield from _legal(Case(op, f"{_of(rank)}[{index}]") for rank in (4, 3) for index in values.INDEXED[op])
        return
    if spelling.startswith("operator."):
        yield from _operators(op)
        return
    spelling, _, fixed = spelling.partition(" ")
    for arguments in _signatures(op, spelling):
        if fixed:
            name, _, value = fixed.partition("=")
            arguments = [replace(a, choices=(value,), optional=False) if a.name == name else a for a in arguments]
        yield from _variations(op, spelling, arguments)


def _operators(op: str) -> Iterator[Case]:
    sign, others = values.OPERATORS[op], values.NAMED["other"]
    for rank in (4, 2):
        x, y = _input(op, rank), f"y{rank}"
        for other in others:
            other = _at(other, rank)
            yield from _legal([Case(op, f"{x} {sign} {other}"), Case(op, f"{other} {sign} {x}")])
        yield from _legal([Case(op, f"{x} {sign} ({y} * {y})"), Case(op, f"{x} {sign} {x}")])


def _variations(op: str, spelling: str, arguments: Sequence[Argument]) -> Iterator[Case]:
    """At every rank that works the plain form; at the first one every argument's values, and pairs of them."""
    first: tuple[int, dict[str, str]] | None = None
    for rank in values.RANKS:
        base = _base(op, spelling, arguments, rank)
        if base is not None:
            yield write(op, spelling, arguments, base, rank)
            first = first or (rank, base)
    if first is None:
        return
    rank, base = first
    changes = [(a.name, value) for a in arguments for value in a.choices if base.get(a.name) != value]
    for name, value in changes:
        yield from _legal([write(op, spelling, arguments, {**base, name: value}, rank)])
    pairs = [pair for pair in itertools.combinations(changes, 2) if pair[0][0] != pair[1][0]]
    random.Random(f"{op} {spelling}").shuffle(pairs)
    wanted = next((count for kind, count in PAIRS.items() if kind in op), FEW_PAIRS)
    made = (write(op, spelling, arguments, {**base, **dict(pair)}, rank) for pair in pairs[: 12 * wanted])
    yield from itertools.islice(_legal(made), wanted)


def _base(op: str, spelling: str, arguments: Sequence[Argument], rank: int) -> dict[str, str] | None:
    """The first legal values of the arguments that must be given; where that is none, with one more."""
    needed = [a for a in arguments if not a.optional]
    free = [{}, *({a.name: a.choices[0]} for a in arguments if a.optional)]
    for more in free:
        for chosen in itertools.islice(itertools.product(*(a.choices for a in needed)), TRIES // len(free)):
            given = dict(zip((a.name for a in needed), chosen, strict=True)) | more
            if legal(write(op, spelling, arguments, given, rank)):
                return given
    return None


def write(op: str, spelling: str, arguments: Sequence[Argument], given: dict[str, str], rank: int) -> Case:
    """The call with these arguments: what must be given by position, the rest by name."""
    x = _input(op, rank)
    words = [
        _at(given[a.name], rank) if a.positional else f"{a.name}={_at(given[a.name], rank)}"
        for a in arguments
        if a.name in given
    ]
    inner = ", ".join(words)
    if spelling.startswith("nn."):
        states = "[0]" if spelling in ("nn.GRU", "nn.LSTM", "nn.RNN") else ""  # without the last ones: samples second
        return Case(op, f"m({x}){states}", f"{spelling}({inner})")
    name = spelling.rpartition(".")[2]
    if name.endswith("_") or given.get("inplace") == "True":
        x = f"(1.0 * {x})"  # an activation: nobody writes into the network's input
    if spelling.startswith("Tensor."):
        return Case(op, f"{x}.{name}({inner})")
    if arguments and arguments[0].name in ("tensors", "equation"):
        return Case(op, f"{spelling}({inner})")
    if op == "where" and spelling == "torch.where":
        return Case(op, f"{spelling}({_at(given.get('condition', '(X > 0)'), rank)}, {x}, y{rank})")
    return Case(op, f"{spelling}({', '.join([x, *words])})")


def _of(rank: int) -> str:
    return f"x{rank}"


def _at(text: str, rank: int) -> str:
    return re.sub(r"\b([XY])\b", lambda found: f"{found[1].lower()}{rank}", text)


def _input(op: str, rank: int) -> str:
    return _at(values.EXPRESSIONS.get(values.INPUTS.get(op, "X"), "X"), rank)


# ------------------------------------------------------------------------------------------------------- signatures


def _signatures(op: str, spelling: str) -> Iterator[list[Argument]]:
    """Of a spelling: Python's own signature where there is one, else the schemas of the op's overloads."""
    owner, _, name = spelling.rpartition(".")
    there = _resolve(spelling)
    short = name.rstrip("_")
    if not callable(there):
        yield []
        return
    told = _python(there, short)
    if told is not None:
        yield told[0 if owner == "nn" else 1 :]
        return
    packet = (
        getattr(torch.ops.aten, name, None) or getattr(torch.ops.aten, short, None) or getattr(torch.ops.aten, op, None)
    )
    seen = set()
    for overload in packet.overloads() if packet is not None else []:
        if "out" in overload:
            continue
        schema = getattr(packet, overload)._schema
        skip = 0 if (schema.arguments and schema.arguments[0].name == "tensors") or op in ("einsum", "where") else 1
        arguments = [_of_schema(a, short) for a in schema.arguments[skip:] if a.name not in ("generator", "names")]
        arguments = [a for a in arguments if a.choices]
        if str(arguments) not in seen:
            seen.add(str(arguments))
            yield arguments


def _resolve(spelling: str) -> Any:
    value: Any = {"torch": torch, "F": nn.functional, "nn": nn, "Tensor": Tensor}[spelling.partition(".")[0]]
    for name in spelling.split(".")[1:]:
        value = getattr(value, name)
    return value


def _resolve_or_none(spelling: str) -> Any:
    try:
        return _resolve(spelling)
    except (AttributeError, KeyError):
        return None


def _python(function: Any, name: str) -> list[Argument] | None:
    try:
        parameters = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.name not in ("self", "device", "dtype", "generator")
        ]
    except (TypeError, ValueError):
        return None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) and name not in ("RNN", "GRU", "LSTM"):
        return None
    if name in ("RNN", "GRU", "LSTM"):
        return _recurrent(function)
    found = []
    for p in parameters:
        optional = p.default is not p.empty
        choices = _choices(name, p.name, "bool" if isinstance(p.default, bool) else "")
        if optional and not choices:
            continue
        found.append(Argument(p.name, choices, optional, positional=not optional and p.kind is not p.KEYWORD_ONLY))
    return found


def _recurrent(cell: Any) -> list[Argument]:
    """Their constructors hide the signature behind *args."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
    extra = {"RNN": ("nonlinearity",), "LSTM": ("proj_size",)}.get(cell.__name__, ())
    bools = {"bias", "bidirectional"}
    found = []
    for place, n in enumerate((*names, *extra)):
        choices = ("True",) if n == "batch_first" else values.BOOLS if n in bools else values.NAMED[n]
        found.append(Argument(n, choices, optional=place > 1 and n != "batch_first", positional=place < 2))
    return found


def _of_schema(argument: Any, name: str) -> Argument:
    choices = _choices(name, argument.name, str(argument.type))
    needed = not argument.has_default_value()
    return Argument(argument.name, choices, not needed, positional=needed and not argument.kwarg_only)


def _choices(op: str, name: str, kind: str) -> tuple[str, ...]:
    """The range of an argument: by its op and name, by its name, by its type."""
    named = values.OF_OP.get((op, name)) or values.NAMED.get(name)
    if "bool" in kind and name != "attn_mask":
        return values.BOOLS if named is None or name == "bias" else named
    if named is not None:
        return named
    return (
        ("Y", "w[6, 1, 1]")
        if kind == "Tensor"
        else ("1", "2")
        if kind in ("int", "SymInt")
        else ("0.5",)
        if kind in ("float", "number", "Scalar")
        else ()
    )


# ------------------------------------------------------------------------------------------------------------ legal


def _legal(found: Sequence[Case] | Iterator[Case]) -> Iterator[Case]:
    return (case for case in found if legal(case))


@cache
def legal(case: Case) -> bool:
    """Does PyTorch accept it, is it a network's (each sample's answer its own, finite, the same each time)?"""
    try:
        return _independent(Run([case]))
    except Exception:
        return False


def _independent(run: Run) -> bool:
    inputs = samples(run.names, 2)
    together = run.answers(inputs)[0]
    if not all(one.ndim > 0 and len(one) == 2 and 0 < one.numel() <= LARGEST for one in together):
        return False
    again = run.answers(inputs)[0]
    alone = run.answers({name: tensor[1:] for name, tensor in inputs.items()})[0]
    if any(len(one) != MANY for one in run.answers(samples(run.names, MANY))[0]):
        return False  # it cuts the axis of the samples
    return bool(together) and all(
        len(two) == 1
        and bool(torch.isfinite(one).all())
        and torch.equal(one, same)
        and torch.allclose(one[1:], two, rtol=1e-3, atol=1e-4)
        for one, same, two in zip(together, again, alone, strict=True)
    )
