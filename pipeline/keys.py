"""Words for tables that a user writes: one line an error, with the nearest valid key; `--set KEY=VALUE`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.errors import UsageError


def explain(row: Any, known: Sequence[str], better: Mapping[str, str] | None = None) -> str:
    """One of pydantic's errors in words. `known`: valid keys, dotted; `better`: key -> a message in place of its."""
    where = ".".join(str(part) for part in row["loc"])
    if row["type"] == "extra_forbidden":
        return f"unknown key '{where}'{_nearest(where, known)}"
    if row["type"] == "missing":
        return f"missing key '{where}'"
    message = (better or {}).get(where) or row["msg"].removeprefix("Value error, ")
    given = "" if not where or isinstance(row["input"], dict) else f" (given: {row['input']!r})"
    return f"{where}: {message}{given}" if where else message


def of(table: type[BaseModel]) -> list[str]:
    """Every key that a table and the tables in it may hold, dotted."""
    found = []
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [f"{name}.{inner}" for inner in field.annotation.model_fields]
        found.append(name)
    return found


def override(table: dict[str, Any], text: str, rivals: Mapping[str, Sequence[str]]) -> None:
    """Set one key of a table, "prune.macs=0.25", the value in TOML or a bare word. Raises UsageError.

    `rivals`: keys of a table of which one stands alone; the one that is set takes the place of the others.
    """
    key, equals, value = text.partition("=")
    if ".tag:" in key:  # a slice, whose own name has an equals sign
        tag, equals, value = value.partition("=")
        key += f"={tag}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {text}: expected KEY=VALUE, for example --set prune.macs=0.25")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {text}: '{part}' is not a table")
    alone = rivals.get(".".join(parts[:-1]), ())
    for other in alone if parts[-1] in alone else ():
        table.pop(other, None)
    table[parts[-1]] = parsed


MEANT = {  # what people write -> the keys that say it, here or there
    "seconds": ("budget_s",), "time": ("budget_s",), "duration": ("budget_s",), "timeout": ("budget_s",),
    "runs": ("min_rounds",), "repeats": ("min_rounds",), "iterations": ("min_rounds", "epochs", "steps"),
    "workers": ("processes", "threads"), "learning_rate": ("lr",), "batch": ("batch_size",), "decay": ("weight_decay",),
    "steps": ("epochs",), "ratio": ("macs", "sparsity"), "amount": ("macs", "sparsity"), "flops": ("macs",),
    "params": ("parameters",), "size": ("max_size_bytes", "bytes"), "n": ("samples",), "num_samples": ("samples",),
    "algorithm": ("method", "observers"), "tolerance": ("margin_points",), "accuracy_drop": ("margin_points",),
    "max_drop": ("margin_points",), "latency": ("max_latency_ms",), "memory": ("max_peak_memory_bytes",),
    "t": ("temperature",),
}  # fmt: skip


def _nearest(key: str, known: Sequence[str]) -> str:
    """The key that was meant, as far as one can tell, and all that stand in the same table."""
    table, dot, name = key.rpartition(".")
    beside = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == table]
    meant = [f"{table}{dot}{one}" for one in MEANT.get(name.lower(), ()) if one in beside]
    meant += [f"{table}{dot}{one}" for one in difflib.get_close_matches(name, beside, n=1, cutoff=0.65)]
    meant += difflib.get_close_matches(key, [one for one in known if one != table], n=1, cutoff=0.75)
    hint = f": did you mean '{meant[0]}'?" if meant else ";"
    return f"{hint} {f'[{table}]' if table else 'a recipe'} has {', '.join(beside)}" if beside else hint.rstrip(";")
