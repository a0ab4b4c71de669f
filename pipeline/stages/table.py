"""The stages as data: where each one's function is, what its result depends on, where it runs."""

from __future__ import annotations

from dataclasses import dataclass

TORCH = ("torch", "numpy", "safetensors")
BUILDS = ("model", "student")  # the factories that build a model on its way


@dataclass(frozen=True)
class StageInfo:
    """`function`: "module:function". `packages`: distributions whose versions are part of the key (a target's own are
    added). `isolated`: runs in a fresh process, so that its memory goes back and its output is deterministic.
    `user`: which of the user's functions it can call; their source is part of the key. `device`: its result holds
    for one machine only. `trains`: torchrun's other processes run it too. `foreign`: it reads a file of somebody
    else's, which its setting `model` names, isolated and held to limits.
    """

    function: str
    packages: tuple[str, ...] = ()
    isolated: bool = False
    user: tuple[str, ...] = ()
    device: bool = False
    trains: bool = False
    foreign: bool = False


STAGES: dict[str, StageInfo] = {
    "data": StageInfo("pipeline.stages.data:run", ("numpy",), user=("data",)),
    "bring": StageInfo(
        "pipeline.stages.bring:run",
        ("torch", "numpy", "onnx", "onnxruntime"),
        isolated=True,
        user=("metric",),
        foreign=True,
    ),
    "load": StageInfo("pipeline.stages.load:run", TORCH, user=("model", "metric", "loss")),
    "train": StageInfo(
        "pipeline.stages.train:run", TORCH, user=("model", "metric", "loss", "train_augment"), trains=True
    ),
    "reference": StageInfo("pipeline.stages.reference:run", TORCH, user=("model", "metric")),
    "rewrite": StageInfo("pipeline.stages.rewrite:run", TORCH, user=(*BUILDS, "metric", "loss")),
    "sensitivity": StageInfo(
        "pipeline.stages.sensitivity:run", (*TORCH, "torch-pruning"), user=(*BUILDS, "metric", "loss")
    ),
    "prune": StageInfo("pipeline.stages.prune:run", (*TORCH, "torch-pruning"), user=(*BUILDS, "metric", "loss")),
    "soft-labels": StageInfo("pipeline.stages.soft_labels:run", TORCH, user=(*BUILDS, "metric", "loss")),
    "shapes": StageInfo("pipeline.stages.shapes:run", (*TORCH, "torch-pruning"), user=BUILDS),
    "device-profile": StageInfo("pipeline.stages.device_profile:run", ("torch", "numpy"), isolated=True, device=True),
    # the same where widths or the stop are measured on the target
    "prune-measured": StageInfo(
        "pipeline.stages.prune:run",
        (*TORCH, "torch-pruning"),
        isolated=True,
        user=(*BUILDS, "metric", "loss"),
        device=True,
    ),
    "distill": StageInfo(
        "pipeline.stages.distill:run", TORCH, user=(*BUILDS, "metric", "loss", "distill_augment"), trains=True
    ),
    "export-pt2": StageInfo(
        "pipeline.stages.export:pt2",
        ("torch", "numpy"),
        isolated=True,
        user=BUILDS,
    ),
    "weights": StageInfo("pipeline.stages.weights:run", ("torch", "numpy"), isolated=True),
    "export-onnx": StageInfo("pipeline.stages.export:onnx", ("torch", "onnx", "onnxscript"), isolated=True),
    "lower": StageInfo("pipeline.stages.lower:run", isolated=True, device=True),  # the CPU decides what is proposed
    "observe": StageInfo("pipeline.stages.observe:run", ("numpy",), isolated=True),
    "quantize": StageInfo("pipeline.stages.quantize:run", ("numpy",), isolated=True, device=True),
    "keep": StageInfo("pipeline.stages.keep:run", ("numpy",), isolated=True, device=True),
    "screen": StageInfo("pipeline.stages.screen:run", ("numpy",), user=("metric",), device=True),
    "race": StageInfo("pipeline.stages.race:run", ("numpy",), device=True),
    "verify": StageInfo("pipeline.stages.verify:run", ("numpy",), user=("metric",), device=True),
    "older-cpus": StageInfo("pipeline.stages.older_cpus:run", ("numpy",), device=True),
    "profile": StageInfo("pipeline.stages.profile:run", ("numpy",), device=True),
}

# What --only and --from may name, in the order in which the stages run.
ORDER = tuple(STAGES)
