"""What each layer costs: the same quantizer again with one layer left in float, measured on the runtime itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.metrics import sqnr_db
from calibration.qparams import Ranges
from targets import base
from targets.base import Batch


@dataclass(frozen=True)
class Kept:
    """With `layer` in float the outputs have `sqnr_db`, `gain_db` more than with all layers quantized; None where it
    cannot be made so, and `why`.
    """

    layer: str
    sqnr_db: float | None
    gain_db: float | None
    why: str = ""


@dataclass(frozen=True)
class Maker:
    """How a candidate is made: the float graph that its quantizer starts from, its ranges or calibration batches."""

    target: base.Target
    model: base.Model
    candidate: base.Candidate
    ranges: Ranges | None
    batches: Callable[[], Iterable[Batch]]

    def make(self, layers: Sequence[str], folder: Path) -> base.Model:
        """A model below `folder` with these layers in float, beside those that it keeps anyway. Raises TargetError."""
        candidate = base.keeping(self.candidate, sorted({*base.kept(self.candidate), *layers}))
        return base.write_manifest(self.target.quantize(self.model, candidate, self.ranges, self.batches(), folder))

    def fidelity(self, layers: Sequence[str], inputs: Batch, wanted: Batch) -> float:
        """SQNR in dB of the worst output against `wanted`, with these layers in float."""
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            model = self.make(layers, Path(folder))
            with self.target.open(model, self.candidate) as session:
                found = session.run(inputs)
        return min(sqnr_db(wanted[name], found[name]) for name in wanted)


def leave_one_out(maker: Maker, inputs: Batch, wanted: Batch) -> list[Kept]:
    """A row for each layer, the one that gains most first. `inputs`, `wanted`: samples and float's answers to them."""
    whole = maker.fidelity((), inputs, wanted)
    rows = []
    for layer in maker.target.layers(maker.model):
        try:
            db = maker.fidelity((layer,), inputs, wanted)
        except (base.TargetError, ValueError) as error:
            rows.append(Kept(layer, None, None, str(error)))
        else:
            rows.append(Kept(layer, round(db, 2), round(db - whole, 2)))
    return sorted(rows, key=lambda row: -(row.gain_db if row.gain_db is not None else float("-inf")))
