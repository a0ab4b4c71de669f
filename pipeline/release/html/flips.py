"""Samples that flipped, from the evidence beside the delivered models: what they were, who said what, a picture."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from pipeline.release import flipped, samples
from pipeline.release.html import pictures
from pipeline.release.report import Report

MOST = 24  # cards in all
BYTES = 700_000  # of pictures in all: the page stays below 2 MB


@dataclass
class Card:
    """One sample. `said`: answer -> the targets that gave it where float answered `floating`."""

    index: int
    label: str
    floating: str
    lost: bool
    said: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Markup] = field(default_factory=list)


def cards(report: Report, folder: Path) -> list[Card]:
    """Lost samples first; each once, with every target that flipped it. Empty where no evidence was delivered."""
    found: dict[tuple[int, bool], Card] = {}
    inputs = {}
    for name, row in report.targets.items():
        if not row.runs or row.shipped is None:
            continue
        beside = folder / name / "evidence"
        try:
            kept = samples.load(beside / samples.file_name(row.runs[0].batch)).answers
            shown = flipped.load(beside / flipped.FILE)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue  # evidence was moved or is damaged: the gate says so, a page only shows less
        if kept is None:
            continue  # no classification: nothing flips
        for place, index in enumerate(shown.index.tolist()):
            lost = bool(kept.float_class[index] == kept.labels[index])
            card = found.setdefault(
                (index, lost),
                Card(index, str(kept.names[kept.labels[index]]), str(kept.names[kept.float_class[index]]), lost),
            )
            card.said.setdefault(str(kept.names[kept.deployed_class[index]]), []).append(name)
            inputs[index] = [array[place] for array in shown.inputs.values()]
    ordered = sorted(found.values(), key=lambda card: (-sum(map(len, card.said.values())), card.index))
    losses, gains = [c for c in ordered if c.lost], [c for c in ordered if not c.lost]
    chosen = [*losses[: MOST - min(MOST // 2, len(gains))], *gains[: MOST - min(MOST // 2, len(losses))]]
    room = BYTES
    for card in chosen:
        drawn = [picture for sample in inputs[card.index] if (picture := pictures.draw(np.asarray(sample))) is not None]
        room -= sum(map(len, drawn))
        card.pictures = drawn if room > 0 else []
    return chosen
