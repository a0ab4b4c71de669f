"""Models broken on purpose: verify and the gate refuse each, and explain names the layer or the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.metrics import sqnr_db
from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline import road, tasks
from pipeline.artifact import Artifact
from pipeline.branch import Branch, Exported, Network
from pipeline.data import Data, Split, load_split, save, save_named
from pipeline.errors import StageError
from pipeline.explain import answers, causes, facts, layers, losses, sensitivity, stands_for
from pipeline.recipe import from_table
from pipeline.release.gate import Evidence, Policy, Run, Verdict, judge
from pipeline.release.samples import from_logits
from pipeline.runner import Runner
from pipeline.stages import Job, keep, quantize, verify
from pipeline.stages.quantize import shares
from pipeline.store import Store
from targets import base, registry
from targets.base import Batch, Model
from tests.conformance.case import Case, make_network

TARGET, NETWORK, N = "onnxruntime", "conv_bn_relu", 400
POLICY = Policy(margin_points=5.0)


@dataclass(frozen=True)
class World:
    """A network on a runtime, with samples whose labels are float's own answers, so that float is always right."""

    case: Case
    folder: Path

    @cached_property
    def inputs(self) -> Batch:
        rng = np.random.default_rng(5)
        shape = next(iter(self.case.network.held_out.values())).shape[1:]
        return {"input": rng.standard_normal((N, *shape)).astype(np.float32)}

    def network_inputs(self, split: str) -> Any:
        return np.asarray(load_split(self.case.network.data, split).inputs["input"])

    @cached_property
    def candidate(self) -> base.Candidate:
        return base.find(self.case.target, self.case.model, "ours-mse")

    @cached_property
    def wanted(self) -> Batch:
        return self.case.run(self.case.model, self.case.floating, self.inputs)

    def copy(self, name: str) -> Model:
        """The sound int8 model in a folder of its own, to be spoiled."""
        sound = self.case.artifact(self.candidate)
        folder = self.case.new_folder(name)
        (folder / sound.path.name).write_bytes(sound.path.read_bytes())
        return base.write_manifest(replace(sound, path=folder / sound.path.name))

    def verdict(self, model: Model) -> Verdict:
        """Verify as the road does it, at batch 1 and 32, then the gate."""
        data, out = self.folder / "data", self.case.new_folder("verify")
        if not data.exists():
            labels = self.wanted["output"].argmax(axis=1)
            save(Data({"gate": Split(self.inputs, labels)}), data)
            (self.folder / "reference").mkdir()
            save_named(self.folder / "reference" / "gate.npz", self.wanted)
        settings = {"target": TARGET, "candidate": self.candidate.id, "batches": [1, 32], "threads": 1}
        roles = {"data": data, "reference": self.folder / "reference"}
        roles |= {"float": self.case.model.path.parent, "shipped": model.path.parent}
        found = verify.run(Job("verify", settings, roles, out, 0))
        runs = [
            Run(r["batch"], r["n"], (r["flips"] or {}).get("lost"), (r["flips"] or {}).get("gained"), r["finite"],
                sqnr_db=r["sqnr_db"], worst_error=r["worst_error"])
            for r in found["runs"]
        ]  # fmt: skip
        share = shares(self.case.target.inspect(model, self.candidate))["int8_mac_share"]
        digest = found["sha256"]
        evidence = Evidence(N, (1, 32), tuple(runs), digest, digest, 0, int8_mac_share=share, precision="int8")
        return judge(POLICY, evidence)

    def explained(self, model: Model) -> list[causes.Cause]:
        pair = facts.Pair(self.case.target, self.case.model, model, self.candidate)
        return causes.found(facts.gather(pair, self.inputs, ["a", "b", "c", "d", "e"], tapped=48).facts)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    target = registry.load(TARGET)
    if lacking := registry.missing(target):
        pytest.skip(str(registry.missing_error(target, lacking)))
    folder = tmp_path_factory.mktemp("explain")
    (folder / "case").mkdir()
    return World(Case(target, make_network(NETWORK, folder / "network"), folder / "case"), folder)


def spoil(model: Model, change: Callable[[Any], None]) -> Model:
    graph = onnx.load(model.path)
    change(graph.graph)
    onnx.save(graph, model.path)
    return base.write_manifest(model)


def wrong_zero_point(world: World) -> Model:
    """By 32 codes of 256, where the second activation is read."""

    def change(graph: Any) -> None:
        quantized = [n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"]
        reader = next(n for n in graph.node if n.input[0] == quantized[1])
        zero = numpy_helper.to_array(next(t for t in graph.initializer if t.name == reader.input[2]))
        graph.initializer.append(numpy_helper.from_array(zero ^ 32, "shifted"))
        reader.input[2] = "shifted"

    return spoil(world.copy("zero-point"), change)


def at_the_end(*made: Any) -> Callable[[Any], None]:
    """Nodes and constants between the logits, now called "logits", and the output."""

    def change(graph: Any) -> None:
        last = next(n for n in graph.node if "output" in n.output)
        last.output[0] = "logits"
        for one in made:
            (graph.initializer if isinstance(one, onnx.TensorProto) else graph.node).append(one)

    return change


def swapped_classes(world: World) -> Model:
    order = numpy_helper.from_array(np.array([1, 0, 2, 3, 4]), "order")
    change = at_the_end(order, helper.make_node("Gather", ["logits", "order"], ["output"], axis=1))
    return spoil(world.copy("swapped"), change)


def batch_dependent(world: World) -> Model:
    """Nine parts of the batch's mean in each answer: nothing at batch 1."""
    parts = [numpy_helper.from_array(np.float32(value), name) for value, name in ((0.9, "most"), (0.1, "least"))]
    axis = numpy_helper.from_array(np.array([0]), "axis")
    nodes = [
        helper.make_node("ReduceMean", ["logits", "axis"], ["mean_of_batch"]),
        helper.make_node("Mul", ["mean_of_batch", "most"], ["shared"]),
        helper.make_node("Mul", ["logits", "least"], ["own"]),
        helper.make_node("Add", ["shared", "own"], ["output"]),
    ]
    return spoil(world.copy("batch"), at_the_end(*parts, axis, *nodes))


def calibrated_on_noise(world: World) -> Model:
    """Of a tenth of the data's size."""
    case, rng = world.case, np.random.default_rng(0)
    statistics = Statistics(case.model.sha256)
    with case.target.open(case.model, case.floating) as session:
        for _ in range(16):
            noise = {
                name: 0.1 * rng.standard_normal((1, *a.shape[1:])).astype(np.float32)
                for name, a in world.inputs.items()
            }
            statistics.update(session.tap(noise, case.model.tensors))
    return case.quantize(world.candidate, solve(statistics, SCHEMES["u8s8"], "mse"))


def float_posing(world: World) -> Model:
    return world.case.model


def dead_channel(world: World) -> Model:
    """The weights of the last convolution's channel that the classes depend on most."""
    heads = next(t for t in onnx.load(world.case.model.path).graph.initializer if t.dims == [5, 32])
    channel = int(np.ptp(numpy_helper.to_array(heads), axis=0).argmax())

    def change(graph: Any) -> None:
        stored = next(t for t in graph.initializer if list(t.dims)[:1] == [32] and len(t.dims) == 4)
        codes = numpy_helper.to_array(stored).copy()
        codes[channel] = 0
        stored.CopyFrom(numpy_helper.from_array(codes, stored.name))

    return spoil(world.copy(f"dead-{channel}"), change)


# What is broken, the cause that explain must name, where (None: the whole model), and the start of the gate's reason.
BROKEN: list[tuple[Callable[[World], Model], str, str | None, str]] = [
    (wrong_zero_point, "a wrong zero point", "relu", "accuracy at batch 1: drop"),
    (swapped_classes, "outputs are swapped", None, "accuracy at batch 1: drop"),
    (calibrated_on_noise, "calibrated on other data", "input", "accuracy at batch 1: drop"),
    (float_posing, "nothing is quantized", None, "precision: it says int8, but nothing runs in int8"),
    (dead_channel, "dead channels", "relu_1", "accuracy at batch 1: drop"),
    (batch_dependent, "the answer depends on the batch", "output", "accuracy at batch 32: drop"),
]


def test_a_sound_model_passes_and_nothing_is_said_against_it(world: World) -> None:
    model = world.case.artifact(world.candidate)
    assert world.verdict(model).verdict == "pass"
    assert world.explained(model) == []


@pytest.mark.parametrize(("sabotage", "cause", "layer", "reason"), BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_broken_models_are_refused_and_the_cause_is_named(
    world: World, sabotage: Callable[[World], Model], cause: str, layer: str | None, reason: str
) -> None:
    model = sabotage(world)
    verdict = world.verdict(model)
    assert verdict.verdict == "fail"
    assert any(one.startswith(reason) for one in verdict.reasons), verdict.reasons
    found = world.explained(model)
    assert (cause, layer) in [(one.name, one.layer) for one in found], found
    others = {row[1] for row in BROKEN} - {cause}
    assert not others & {one.name for one in found}, found


def maker(world: World, candidate: str) -> sensitivity.Maker:
    case = world.case
    chosen = base.find(case.target, case.model, candidate)
    return sensitivity.Maker(case.target, case.model, chosen, case.ranges(chosen), case.batches)


@pytest.mark.parametrize("candidate", ["ours-mse", "ort-minmax-u8s8"])
def test_a_layer_left_in_float_gains_what_the_runtime_measures(world: World, candidate: str) -> None:
    case, made = world.case, maker(world, candidate)
    some, wanted = ({name: array[:64] for name, array in batch.items()} for batch in (world.inputs, world.wanted))
    rows = sensitivity.leave_one_out(made, some, wanted)
    assert {row.layer for row in rows} == set(case.target.layers(case.model))
    whole = made.fidelity((), some, wanted)
    assert [row.gain_db for row in rows] == sorted((row.gain_db for row in rows), reverse=True)  # type: ignore[type-var]
    assert all(row.sqnr_db == pytest.approx(whole + (row.gain_db or 0), abs=0.02) for row in rows)
    everything = made.fidelity(case.target.layers(case.model), some, wanted)
    assert everything > max(row.sqnr_db or 0 for row in rows) > whole


def test_a_layer_that_cannot_be_left_says_why(world: World) -> None:
    class Stubborn:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.case.target, name)

        def quantize(self, model: Model, candidate: base.Candidate, *rest: Any) -> Model:
            if base.kept(candidate):
                raise base.TargetError("all or nothing")
            return world.case.target.quantize(model, candidate, *rest)

    stubborn: Any = Stubborn()
    rows = sensitivity.leave_one_out(replace(maker(world, "ours-mse"), target=stubborn), world.inputs, world.wanted)
    assert {(row.sqnr_db, row.gain_db, row.why) for row in rows} == {(None, None, "all or nothing")}


def test_rows_are_what_numpy_says_whatever_the_batches(world: World) -> None:
    model, names = world.case.artifact(world.candidate), ["input", "relu"]
    few = {"input": world.inputs["input"][:12]}
    ends = facts.ends_of(model.path)
    with (
        world.case.target.open(world.case.model, world.case.floating) as floating,
        world.case.target.open(model, world.candidate) as quantized,
    ):
        wanted, found = floating.tap(few, names), quantized.tap(few, names)
        parts = [{"input": few["input"][start : start + 4]} for start in range(0, 12, 4)]
        for row in layers.compare(floating, quantized, names, parts, ends):
            one, other = wanted[row.name].astype(float), found[row.name].astype(float)
            low, high, step = ends[row.name]
            assert row.sqnr_db == pytest.approx(10 * np.log10((one**2).sum() / ((one - other) ** 2).sum()), abs=0.01)
            assert row.worst_error == np.abs(one - other).max()
            assert row.clipped == np.mean((one < low - step / 2) | (one > high + step / 2))
            assert row.shift_steps == pytest.approx((other - one).mean() / step)
            assert row.range_used == pytest.approx(np.ptp(one) / (high - low))
            assert (row.dead, row.dead_axis) == ((), None)


def test_a_tensor_without_noise_has_no_ratio() -> None:
    seen = layers.Seen(None)
    seen.update(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    row = seen.row("x")
    assert (row.sqnr_db, row.clipped, row.shift_steps) == (None, None, None)


def test_the_first_break_is_where_it_falls() -> None:
    def rows(*db: float | None) -> list[layers.LayerRow]:
        return [layers.LayerRow(f"t{i}", value, 0.0) for i, value in enumerate(db)]

    assert layers.first_break(rows(41, 39, 36, 37, 44)) is None
    assert layers.first_break(rows(41, 39, 20, 37)) == "t2"
    assert layers.first_break(rows(5, 4)) == "t0"
    assert layers.first_break(rows(None, 30, None)) is None


def test_a_loss_is_shared_out_between_what_made_it() -> None:
    labels = np.array([0, 1, 2, 0])
    floating = {"output": np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]}
    pruned = {"output": np.eye(3, dtype=np.float32)[[1, 1, 2, 0]]}
    int8 = {"output": np.eye(3, dtype=np.float32)[[1, 0, 2, 0]]}
    first, second = losses.losses(tasks.CLASSIFICATION, labels, {"float": floating, "prune": pruned, "int8": int8})
    assert (first.by, first.before, first.after, first.lost, first.gained) == ("prune", 0.75, 0.75, 1, 1)
    assert (second.by, second.before, second.after, second.lost, second.gained) == ("int8", 0.75, 0.5, 1, 0)
    assert second.sqnr_db == pytest.approx(10 * np.log10(4 / 2))
    mae = losses.losses(tasks.Task("mae"), np.zeros(4), {"float": {"y": np.ones(4)}, "int8": {"y": np.full(4, 1.5)}})
    assert [(one.before, one.after, one.lost) for one in mae] == [(1.0, 1.5, None)]
    broken = {"output": np.full((4, 3), np.nan, np.float32)}
    assert losses.losses(tasks.CLASSIFICATION, labels, {"float": floating, "int8": broken}) == []


def test_a_tensor_is_compared_with_the_graph_that_it_stands_for(tmp_path: Path) -> None:
    """The lowered one, unless the candidate's own was equalized: then that, made where the store has none."""

    def artifact(name: str, **metadata: Any) -> Artifact:
        return Artifact("stage", name, tmp_path / name, name, metadata, 0.0)

    asked: list[tuple[str, Any, bool]] = []

    class Recorder(Runner):
        def do(self, stage: str, inputs: Any, settings: Any, **_: Any) -> Artifact:
            asked.append((stage, settings.get("method"), self.stored_only))
            return artifact(f"{stage} made")

    recipe = from_table(
        {"name": "x", "model": "net:build", "data": "data:splits", "targets": [TARGET]}, tmp_path, "a recipe"
    )
    runner = Recorder(Store(tmp_path / "store"), tmp_path, {}, "", 0, stored_only=True)
    travelled = road.Road(recipe, data=artifact("data"))

    def graph(candidate: str, used: bool | None) -> str:
        passes = [{"pass": "cross_layer", "used": used}]
        stepped = {} if used is None else {TARGET: artifact("stepped", passes=passes)}
        network = Network(exports={"": Exported(artifact("program"), stepped)})
        branch = Branch(TARGET, network, artifact("lowered"))
        branch.made = {"vendor": ({"float": artifact("lowered")}, {}), "ours": ({"float": artifact("of stepped")}, {})}
        asked.clear()
        return stands_for.float_graph(travelled, branch, candidate, runner).key

    assert [graph("vendor", True), graph("ours", False), graph("ours", None)] == ["lowered"] * 3
    assert not asked
    assert graph("ours", True) == "lower made"
    assert asked == [("weights", "none", False), ("export-onnx", None, False), ("lower", None, False)]


def test_worst_samples_and_confusion_are_counted(world: World, tmp_path: Path) -> None:
    labels = world.wanted["output"].argmax(axis=1)
    after = world.wanted["output"].copy()
    after[7, 2] += 100
    names = ["a", "b", "c", "d", "e"]
    rows = answers.worst(world.wanted["output"], after, labels, names, np.array(["ann"] * N))
    assert [(row.index, row.group, row.deployed_class) for row in rows] == [(7, "ann", "c")]
    assert rows[0].label == rows[0].float_class == names[labels[7]]
    found = answers.confusion(from_logits(labels, world.wanted["output"], after, names))
    assert found is not None
    before_counts, after_counts = np.array(found.before), np.array(found.after)
    assert (np.diag(before_counts) == np.bincount(labels, minlength=5)).all()
    moved = np.argwhere(before_counts != after_counts).tolist()
    assert moved == sorted([[labels[7], labels[7]], [labels[7], 2]]) if labels[7] != 2 else moved == []
    assert answers.confusion(None) is None


# ------------------------------------------------------------------------------------------------ keep what hurts


def keep_job(world: World, keep_db: float) -> Job:
    folder = world.folder / "keep"
    if not folder.exists():
        calibration = {name: world.network_inputs("calibration") for name in ("input",)}
        parts = {
            "calibration": Split(calibration, np.zeros(48, int)),
            "selection": Split(world.inputs, np.zeros(N, int)),
        }
        save(Data(parts), folder)
        world.case.statistics.save(folder / "statistics.npz")
    model = world.case.model.path.parent
    roles = {"float": model, "reference": model, "data": folder, "statistics": folder}
    settings = {"target": TARGET, "candidate": "ours-mse", "samples": 48, "weights": "none", "keep_db": keep_db}
    return Job("keep", settings, roles, world.case.new_folder("keep"), 0)


def test_as_few_layers_as_it_takes_stay_in_float(world: World) -> None:
    some, wanted = ({name: array[:64] for name, array in batch.items()} for batch in (world.inputs, world.wanted))
    whole = maker(world, "ours-mse").fidelity((), some, wanted)
    assert keep.run(keep_job(world, whole - 1))["keep"] == []
    found = keep.run(keep_job(world, whole + 0.5))
    assert len(found["keep"]) >= 1
    assert found["sqnr_db"] >= whole + 0.5 > found["before_db"]
    fewer = maker(world, "ours-mse").fidelity(found["keep"][:-1], some, wanted)
    assert fewer < whole + 0.5
    job = keep_job(world, 1.0)
    left = replace(job, settings={**job.settings, "candidate": "ours-mse-keep", "keep": found["keep"]})
    made = quantize.run(left)
    assert made["kept"] == found["keep"]
    assert 0 < made["int8_mac_share"] < 1
    again = base.read_manifest(left.out)
    answers_of = world.case.run(again, base.find(world.case.target, world.case.model, "ours-mse-keep"), some)
    assert sqnr_db(wanted["output"], answers_of["output"]) == pytest.approx(found["sqnr_db"], abs=0.01)


def test_a_fidelity_out_of_reach_is_said(world: World) -> None:
    with pytest.raises(
        StageError, match=r"quantize.keep_db = 200 is out of reach of int8: .* with every layer in float"
    ):
        keep.run(keep_job(world, 200))
