"""`[calibrate]`, `[weights]`, `[quantize]`, `[race]`, `[profile]`: from ranges to what is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.recipe_tables.base import Count, Positive, Table

# Those of calibration.schemes.STRATEGIES whose ranges are calibrated.
Strategy = Literal["default", "symmetric", "per_tensor", "half_range", "signed", "int16"]


class Calibrate(Table):
    """`[calibrate]`: how many samples of the calibration split the observers and the vendors' quantizers see.

    `observers`: the rules that turn what was seen into ranges, or "auto". Each makes a candidate `ours-RULE`, and the
    race decides. `encodings`: target -> a file of ranges (AIMET's JSON or a quantized model, from the recipe's folder):
    one more candidate, `ours-encodings`, has these in place of the first observer's. `strategies`: of
    calibration.schemes.STRATEGIES, each with every observer: `ours-RULE-STRATEGY`; "auto": what suits the CPU that
    measures (candidates.strategies).
    """

    samples: Count = 200
    observers: Annotated[tuple[str, ...], Field(min_length=1)] = ("minmax", "mse")
    strategies: tuple[Strategy, ...] | None = None  # None: "auto"
    encodings: dict[str, str] = {}

    @field_validator("strategies", mode="before")
    @classmethod
    def _suiting(cls, given: Any) -> Any:
        return None if given == "auto" else given

    @field_validator("observers", mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        if given != "auto":
            return given
        from calibration.rules import AUTO  # numpy comes with it

        return AUTO

    @field_validator("observers")
    @classmethod
    def _known_observers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from calibration.errors import CalibrationError  # numpy comes with it
        from calibration.rules import observer

        for name in names:
            try:
                observer(name)
            except CalibrationError as error:
                raise ValueError(str(error)) from error
        if len(set(names)) != len(names):
            raise ValueError("one is named twice")
        return names


class Weights(Table):
    """`[weights]`: the weight step before our own candidates are quantized; the vendors' get the weights as they are.

    `samples` of the calibration split tell it what each layer gets. `equalize`: channels are equalized before it where
    that is seen to help.
    """

    method: Literal["none", "bias", "rounding", "adaround"] = "rounding"
    samples: Count = 64
    equalize: bool = True


class Quantize(Table):
    """`[quantize]`: what ships among the candidates that hold parity.

    `keep_db`: one more candidate of ours, with the layers in float that it takes to reach this SQNR. `keep_speedup`:
    the other way round, with as many in float as leave this speed-up over float, those that gain most first.
    """

    prefer: Literal["latency", "size"] = "latency"
    candidates: tuple[str, ...] = ()  # empty: all that the target proposes
    keep_db: Positive | None = None
    keep_speedup: Positive | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Quantize:
        if self.keep_db is not None and self.keep_speedup is not None:
            raise ValueError("keep_db and keep_speedup ask for different layers: give one of them")
        return self


Processes = Annotated[int, Field(ge=6, le=1000)]  # fewer than 6 give no interval


class Race(Table):
    """`[race]`: the interleaved timing of the candidates. `processes`: over how many fresh ones budget and rounds are
    spread.

    `max_candidates`: so many are timed, float among them; the others that hold parity are further from float.
    `time_failed`: time also those that are shown not to hold parity, for the record. `cmsis_nn`: a CMSIS-NN (a checkout
    or the pinned wheel, by its path from the recipe) whose kernels are raced against our own on emulated boards.
    """

    budget_s: Positive = 6.0
    min_rounds: Count = 200
    max_candidates: Annotated[int, Field(ge=2)] = 12
    time_failed: bool = False
    processes: Processes = 10
    cmsis_nn: str | None = None


class Profile(Table):
    """`[profile]`: the latency measurement of what ships, beside float. `original`: beside the float model as it came
    too, before any stage changed it; that one is exported and lowered for it.
    """

    budget_s: Positive = 5.0
    min_rounds: Count = 1000
    processes: Processes = 10
    original: bool = False
    threads: Count = 1
