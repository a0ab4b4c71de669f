"""Encodings as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table

from calibration.encodings import Difference, Encoding, Encodings
from pipeline.console import OUT, print_json


def table(found: Encodings) -> None:
    """One row a tensor, activations first."""
    rows = Table("Tensor", "Kind", "Bits", "Range", "Scale", "Zero point", box=SIMPLE_HEAD)
    for kind, section in (("activation", found.activations), ("parameter", found.parameters)):
        for name, one in section.items():
            zero = str(-one.offset[0]) if len(set(one.offset)) == 1 else f"{len(one.offset)} of them"
            rows.add_row(name, kind, str(one.bits), _ends(one), _scale(one), zero)
    OUT.print(rows)


def differences(rows: Sequence[Difference], as_json: bool) -> None:
    """What differs, or that nothing does."""
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        OUT.print("no difference")
        return
    shown = Table("Tensor", "Left", "Right", box=SIMPLE_HEAD)
    for row in rows:
        shown.add_row(row.name, *("not there" if one is None else _ends(one) for one in (row.left, row.right)))
    OUT.print(shown)
    OUT.print(f"{len(rows)} tensors differ")


def _ends(one: Encoding) -> str:
    low, high = (f"{end(e[i] for e in one.ends):.6g}" for i, end in ((0, min), (1, max)))
    return f"{low} .. {high}" + (f" ({len(one.scale)} channels)" if len(one.scale) > 1 else "")


def _scale(one: Encoding) -> str:
    low, high = f"{min(one.scale):.6g}", f"{max(one.scale):.6g}"
    return low if low == high else f"{low} .. {high}"
