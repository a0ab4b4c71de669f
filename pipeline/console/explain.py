"""`deploy explain` in the terminal: causes, layers, what to leave in float, samples, targets side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.console import OUT, score
from pipeline.explain.answers import Confusion
from pipeline.explain.losses import Loss
from pipeline.explain.report import Explanation

MOST_ROWS = 12  # of what is sorted by weight; layers are all shown


def explanations(found: Sequence[Explanation]) -> None:
    """Every target, then all of them side by side."""
    for one in found:
        _target(one)
    if len(found) > 1:
        OUT.print(_beside(found))


def _target(one: Explanation) -> None:
    title = f"{one.target}: {one.candidate}{'' if one.shipped else ' (does not ship)'}"
    facts = f"{one.n} samples of the {one.split} split, SQNR {_db(one.sqnr_db)}, agreement {_share(one.agreement)}"
    OUT.print(title, style="bold", end="", soft_wrap=True)
    OUT.print(f": {facts}", soft_wrap=True)
    for loss in one.losses:
        OUT.print(f"  {_loss(loss, one.n)}", soft_wrap=True)
    each = {f"'{name}'": db for name, db in one.outputs.items()} | {f"length {n}": db for n, db in one.lengths.items()}
    if each:
        OUT.print(f"  SQNR of {', '.join(f'{name} {_db(db)}' for name, db in each.items())}", soft_wrap=True)
    if one.note:
        OUT.print(f"  note: {one.note}", soft_wrap=True)
    for cause in one.causes:
        where = f" in '{cause.layer}'" if cause.layer else ""
        OUT.print(f"  {cause.name}{where}: {cause.text}", soft_wrap=True, style="red")
    if not one.causes:
        OUT.print("  no cause stands out: no layer breaks, ranges fit, channels live")
    OUT.print(_layers(one))
    if one.kept:
        OUT.print(_kept(one))
    for sample in one.worst:
        classes = f", '{sample.label}': {sample.float_class} -> {sample.deployed_class}" if sample.label else ""
        group = f" (group {sample.group})" if sample.group else ""
        OUT.print(f"  sample {sample.index}{group}: noise {sample.error_db:.1f} dB{classes}")
    if one.confusion is not None:
        for line in _confusion(one.confusion):
            OUT.print(f"  {line}", soft_wrap=True)
    OUT.print()


def _loss(loss: Loss, n: int) -> str:
    """What a part of the road cost, in the task's metric."""
    flips = "" if loss.lost is None else f" (lost {loss.lost:,}, gained {loss.gained:,} of {n:,})"
    before, after = (score(value, loss.metric, 2) for value in (loss.before, loss.after))
    what = "accuracy " if loss.metric == "accuracy" else ""
    return f"by {loss.by}: {what}{before} -> {after}{flips}, SQNR {_db(loss.sqnr_db)}"


def _layers(one: Explanation) -> Table:
    table = Table(title="layers", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for header in ("SQNR", "worst error", "clipped", "range used", "off by codes", "dead"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in one.layers:
        table.add_row(
            row.name,
            _db(row.sqnr_db),
            f"{row.worst_error:.3g}",
            _share(row.clipped, 2),
            _share(row.range_used, 0),
            "-" if row.shift_steps is None else f"{row.shift_steps:+.2f}",
            str(len(row.dead)) if row.dead else "",
            style="bold red" if row.name == one.breaks_at else "",
        )
    return table


def _kept(one: Explanation) -> Table:
    table = Table(title="with one layer left in float", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for header in ("SQNR", "gain dB"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in one.kept[:MOST_ROWS]:
        gain = row.why if row.gain_db is None else f"{row.gain_db:+.2f}"
        table.add_row(row.layer, "-" if row.gain_db is None else _db(row.sqnr_db), gain)
    return table


def _confusion(found: Confusion) -> list[str]:
    """The cells that changed most; a matrix of many classes fits no terminal (`--json` has it whole)."""
    cells = [
        (after - before, true, answer, before, after)
        for true, (befores, afters) in enumerate(zip(found.before, found.after, strict=True))
        for answer, (before, after) in enumerate(zip(befores, afters, strict=True))
        if before != after
    ]
    if not cells:
        return ["gate split: no cell of the confusion matrix changed"]
    cells.sort(key=lambda cell: -abs(cell[0]))
    names = found.classes
    return [
        f"gate split: '{names[true]}' answered as '{names[answer]}': {before} -> {after} ({change:+d})"
        for change, true, answer, before, after in cells[:MOST_ROWS]
    ]


def _beside(found: Sequence[Explanation]) -> Table:
    table = Table(title="side by side", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for one in found:
        table.add_column(one.target, justify="right")
    table.add_row("candidate", *(one.candidate for one in found))
    table.add_row("SQNR", *(_db(one.sqnr_db) for one in found))
    table.add_row("agreement", *(_share(one.agreement) for one in found))
    table.add_row("int8 MACs", *(_share(one.int8_mac_share, 0) for one in found))
    table.add_row("least layer", *(_least(one) for one in found))
    table.add_row("breaks at", *(one.breaks_at or "-" for one in found))
    table.add_row("gains most in float", *(_gains(one) for one in found))
    table.add_row("causes", *(", ".join(cause.name for cause in one.causes) or "-" for one in found))
    return table


def _least(one: Explanation) -> str:
    rows = [row for row in one.layers if row.sqnr_db is not None]
    least = min(rows, key=lambda row: row.sqnr_db or 0.0, default=None)
    return "-" if least is None else f"{least.name} {_db(least.sqnr_db)}"


def _gains(one: Explanation) -> str:
    best = one.kept[0] if one.kept and one.kept[0].gain_db is not None else None
    return "-" if best is None else f"{best.layer} {best.gain_db:+.1f} dB"


def _db(value: float | None) -> str:
    return "same" if value is None or value == float("inf") else f"{value:.1f} dB"


def _share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"
