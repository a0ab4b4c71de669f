"""What a data factory declares beside its splits: what became of raw samples, what the outputs mean, the class names.

Checked against the splits here; applied to raw samples by pipeline/loader, which ships with every artifact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UsageError
from pipeline.keys import explain
from pipeline.loader import loader

Array = npt.NDArray[Any]
CLOSE = 1e-3  # of the spread of a split's input: float noise stays far below, another resampling does not

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1)]
Activation = Literal["softmax", "sigmoid", "none"]


class Input(BaseModel):
    """From a raw sample to what the network takes, in this order; what is not given is not done.

    `layout`: axes before and after, such as "HWC -> CHW"; an axis that only the network has gets size 1. `resize`:
    [rows, columns], or the shorter side's length, bilinear without antialiasing; `crop`: [rows, columns] of the middle.
    Then (raw / divide_by - mean) / std in float64, one number or one a channel (axis C of `layout`, else the first).
    `tokenizer`: what makes the ids of a text (the loaders begin at ids); `notes`: whatever else a user should know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Annotated[str, Field(pattern=r"^[A-Z]+ *-> *[A-Z]+$")] | None = None
    resize: Size | tuple[Size, Size] | None = None
    crop: tuple[Size, Size] | None = None
    divide_by: Positive | None = None
    mean: Number | tuple[Number, ...] | None = None
    std: Positive | tuple[Positive, ...] | None = None
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    notes: Mapping[str, Any] = {}

    @model_validator(mode="after")
    def _axes_that_fit(self) -> Input:
        before, after = self.axes
        if len(set(before)) != len(before) or len(set(after)) != len(after) or set(before) - set(after):
            raise ValueError(f"layout '{self.layout}': name each axis once, and every raw axis on the right too")
        if (self.resize or self.crop) and not {"H", "W"} <= set(before):
            raise ValueError("resize and crop need a layout with the axes H and W, such as 'HWC -> CHW'")
        return self

    @property
    def axes(self) -> tuple[str, str]:
        """The layout's two sides; empty where the axes stay."""
        before, _, after = (self.layout or "").partition("->")
        return before.strip(), after.strip()

    def rules(self) -> dict[str, Any]:
        """As JSON, and as the loaders take it: what is given and no more."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, {})}


def of(returned: Mapping[str, Any], inputs: Mapping[str, Array], where: str) -> dict[str, dict[str, Any]]:
    """The declared rules of each input: name -> `Input.rules`. `inputs`: one split's, [n, ...].

    `returned["preprocessing"]` is one input's keys, or input name -> keys where there are several. Raises UsageError
    with one line an error.
    """
    given = returned.get("preprocessing") or {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: preprocessing is {type(given).__name__}, expected a mapping")
    named = given if set(given) <= set(inputs) else dict.fromkeys(inputs, given)
    if named is not given and len(inputs) > 1:
        raise UsageError(f"{where}: preprocessing: give it for each input, {{name: {{...}}}}: they are {list(inputs)}")
    found = {}
    for name, keys in named.items():
        try:
            made = Input.model_validate(keys)
        except ValidationError as error:
            known = list(Input.model_fields)
            lines = (f"{where}: preprocessing: {explain(row, known)}" for row in error.errors())
            raise UsageError("\n".join(lines)) from None
        _fits(name, made, inputs[name].shape[1:], where)
        found[name] = made.rules()
    return found


def _fits(name: str, made: Input, shape: tuple[int, ...], where: str) -> None:
    """Does what is declared make samples of that shape?"""
    after = made.axes[1]
    if after and len(after) != len(shape):
        raise UsageError(
            f"{where}: preprocessing: layout '{made.layout}' makes {len(after)} axes, '{name}' has {shape}"
        )
    channels = shape[after.index("C") if "C" in after else 0] if shape else 1
    for key in ("mean", "std"):
        value = getattr(made, key)
        if isinstance(value, tuple) and len(value) not in (1, channels):
            raise UsageError(
                f"{where}: preprocessing: {key} has {len(value)} numbers, input '{name}' of shape {list(shape)} has "
                f"{channels} channels"
            )
    size = made.crop or (made.resize if isinstance(made.resize, tuple) else None)
    if size and (shape[after.index("H")], shape[after.index("W")]) != size:
        raise UsageError(
            f"{where}: preprocessing makes {list(size)} pixels, input '{name}' has the shape {list(shape)}"
        )


def activation(returned: Mapping[str, Any], where: str) -> Activation | None:
    """`returned["postprocessing"]`: what makes probabilities of the first output. Raises UsageError."""
    given = returned.get("postprocessing")
    if given not in (None, "softmax", "sigmoid", "none"):
        raise UsageError(f"{where}: postprocessing is {given!r}, expected 'softmax', 'sigmoid' or 'none'")
    return given


def check_raw(raw: object, rules: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Array], where: str) -> int:
    """Do the raw samples become the first ones of the calibration split, as declared? Returns how many were looked at.

    `raw`: an array, or input name -> array, of the raw samples that the split begins with. Raises UsageError.
    """
    named = raw if isinstance(raw, Mapping) else {next(iter(inputs)): raw}
    if unknown := sorted(set(named) - set(inputs)):
        raise UsageError(f"{where}: raw names {unknown}, the inputs are {list(inputs)}")
    looked = 0
    for name, samples in named.items():
        split = inputs[name]
        if len(samples) > len(split):  # type: ignore[arg-type]
            raise UsageError(f"{where}: raw has more samples than 'calibration', whose first ones it stands for")
        spread = float(split.std()) or 1.0
        for index, sample in enumerate(samples):  # type: ignore[arg-type]
            try:
                made = loader.prepare(sample, {**rules.get(name, {}), "name": name, "dtype": str(split.dtype)})
            except (loader.LoaderError, ValueError, TypeError) as error:
                raise UsageError(f"{where}: raw sample {index} of '{name}' is not as declared: {error}") from error
            if made.shape != split.shape[1:]:
                raise UsageError(
                    f"{where}: the declared preprocessing makes {list(made.shape)} of raw sample {index} of '{name}', "
                    f"the split has {list(split.shape[1:])}"
                )
            apart = float(np.abs(made.astype(np.float64) - split[index]).max(initial=0.0))
            if not math.isfinite(apart) or apart > CLOSE * spread:
                raise UsageError(
                    f"{where}: the declared preprocessing makes other numbers of raw sample {index} of '{name}' than "
                    f"calibration[{index}] holds (by up to {apart:.3g}): correct 'preprocessing'"
                )
            looked += 1
    return looked
