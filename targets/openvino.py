"""OpenVINO on CPUs: IR files, unsigned 8-bit activations, signed 8-bit weights per channel.

On x86 without VNNI or AMX the integer kernels add pairs of products in 16 bits, which full-range weights can overflow;
NNCF's default halves the first layer's range for that. Verification on such a machine shows it.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from calibration.qparams import Ranges, limits
from calibration.schemes import SCHEMES, Granularity
from calibration.weights import HALF_RANGE_CODE, LARGEST_CODE
from targets import agent, onnx_graph, openvino_graph
from targets.base import (
    Batch,
    Candidate,
    Capabilities,
    Model,
    OpInfo,
    Program,
    Support,
    TargetError,
    TensorSpec,
    kept,
    to_model_layout,
)
from targets.session import AdapterSession, Tap

SCHEME = "u8s8"
TAKEN = (SCHEME, "u8s8-symmetric", "u8s8-per_tensor", "u8s8-half_range")
FILE = "model.xml"

FLOAT = Candidate("float", "none", "f32")
BFLOAT = Candidate("float-bf16", "none", "bf16")
INTEGER = (
    Candidate("nncf", "nncf", "int8", SCHEME, "mean-minmax", {"preset": "default"}),
    Candidate("nncf-mixed", "nncf", "int8", SCHEME, "histogram", {"preset": "mixed"}),
    Candidate("ours-minmax", "ours", "int8", SCHEME, "minmax"),
    Candidate("ours-mse", "ours", "int8", SCHEME, "mse"),
)

HALF = Candidate("float16", "openvino", "f16")
# NNCF's presets and ways to estimate ranges (names of its RangeEstimatorParametersSet): "nncf-PRESET-RANGES".
RANGES = {"minmax": "MINMAX", "mean": "MEAN_MINMAX", "median": "MEDIAN_MINMAX", "histogram": "HISTOGRAM"}
FURTHER = (
    HALF,
    Candidate("nncf-transformer", "nncf", "int8", SCHEME, "mean-minmax", {"preset": "transformer"}),
    Candidate("nncf-weights", "nncf", "w8", None, None, {"preset": "weights"}),
    *(
        Candidate(f"nncf-{preset}-{name}", "nncf", "int8", SCHEME, name, {"preset": preset, "ranges": name})
        for preset in ("performance", "mixed")
        for name in RANGES
    ),
)
VARIANTS: dict[str, dict[str, Any]] = {"no-lp": {"low_precision": False}, "bf16": {"rest": "bf16"}}
LACKING = {
    "int16": "its CPU plugin has no integer kernels of 16 bits and would run them in float",
    "signed": "its FakeQuantize has limits and no signs: the plugin chooses",
}

_INT8 = "conv1d conv2d convolution linear addmm mm"
_SIGNS = "behind a ReLU; what has signs, and so a zero point, it reads in float"
_MOVED = (
    "view reshape _unsafe_view flatten permute transpose squeeze unsqueeze dropout clone contiguous "
    "max_pool1d max_pool2d max_pool2d_with_indices"
)
_FUSED = "relu relu6 hardtanh clamp batch_norm add gelu hardswish leaky_relu sigmoid silu sqrt tanh"
_FLOAT = {
    "stays float between quantized ops": "mul sub div cat mean sum avg_pool1d avg_pool2d adaptive_avg_pool1d "
    "adaptive_avg_pool2d hardsigmoid exp pow rsqrt softmax _softmax "
    "layer_norm expand slice select scaled_dot_product_attention",
    "a product of two activations stays float": "bmm",
    "recurrent cells stay float": "gru lstm",
    "looks up float rows": "embedding",
}
OPS: dict[str, Support] = {
    **{f"aten.{name}": Support("int8") for names in (_INT8, _MOVED) for name in names.split()},
    **{f"aten.{name}": Support("int8", "part of the op beside it") for name in _FUSED.split()},
    **{f"aten.{name}": Support("float", reason) for reason, names in _FLOAT.items() for name in names.split()},
    "aten.conv_transpose1d": Support("int8", _SIGNS),
    "aten.conv_transpose2d": Support("int8", _SIGNS),
    "aten.matmul": Support("int8", "of what has signs, and more than two axes, the zero point is subtracted in float"),
    **onnx_graph.REFUSED,
    "aten.rnn_tanh": Support("refused", "unrolled over time, it does not load in int8: use nn.GRU or nn.LSTM"),
}


class OpenVinoTarget:
    """See targets/base.py."""

    name = "openvino"
    version = "1"
    packages = ("onnx", "onnxscript", "openvino", "nncf")
    extra = "openvino"
    runtime = "openvino"
    capabilities = Capabilities(
        program="onnx",
        batch="dynamic",
        dtypes=frozenset({"float32", "int64", "int32"}),
        schemes=frozenset(TAKEN),
        ops=OPS,
        saturating=("half_range",),  # it has no exact kernels for more
        lengths="free",
        older_cpus={"x86 without VNNI": {"max_isa": "AVX512_CORE"}},
        further=FURTHER,
        variants=VARIANTS,
        plain="no-lp",
        lacking=LACKING,
    )

    def lower(self, program: Program, out: Path) -> Model:
        """ONNX to IR with f32 weights (the default would store f16). Every tensor gets exactly one name.

        Raises TargetError with OpenVINO's words when it lacks an op.
        """
        if program.kind == "pt2":
            program = onnx_graph.export(program, out)
        ov = agent.import_openvino()
        try:
            with contextlib.chdir(program.path.parent):  # it takes a comma in a path for a list of files
                model = ov.convert_model(program.path.name)
        except Exception as error:
            raise TargetError(agent.one_line(f"OpenVINO cannot read {program.path}", error), "unsupported") from error
        keep = {spec.name for spec in (*program.inputs, *program.outputs)}
        _bound(model, ov, program.inputs)
        openvino_graph.name_ops(model)
        openvino_graph.name_tensors(model, keep)
        _save(model, out / FILE)
        tensors = tuple(dict.fromkeys(name for _, _, name in openvino_graph.placement(model)))
        return Model(
            out / FILE,
            _specs(model.inputs, program.inputs),
            _specs(model.outputs, program.outputs),
            tensors,
        )

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """Float in bf16 only where this CPU has it."""
        return (FLOAT, *((BFLOAT,) if _has_bf16() else ()), *INTEGER)

    def layers(self, model: Model) -> Sequence[str]:
        """Names of convolutions and products with stored weights."""
        return [node.get_friendly_name() for node in openvino_graph.weighted(_read(model.path))]

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """FakeQuantize by NNCF over raw batches, or at our own places with our ranges; weights are stored as int8."""
        if candidate.precision == "f16":
            _save(_read(model.path), out / FILE, compress_to_fp16=True)
            return Model(out / FILE, model.inputs, model.outputs, model.tensors)
        takes = TAKEN if candidate.quantizer == "ours" else (SCHEME, None)
        if candidate.scheme not in takes:
            raise TargetError(
                f"openvino takes {', '.join(filter(None, takes))}; candidate '{candidate.id}' asks {candidate.scheme}",
                "unsupported",
            )
        if candidate.quantizer == "ours":
            quantized = _with_ranges(model, candidate, ranges)
        else:
            quantized = _by_nncf(model, candidate, [to_model_layout(batch, model.inputs) for batch in batches])
        openvino_graph.name_ops(quantized)
        _save(quantized, out / FILE)
        rounded = [name for name in openvino_graph.rounded(quantized) if name in model.tensors]
        outputs = [spec.name for spec in model.outputs]
        return Model(out / FILE, model.inputs, model.outputs, tuple(dict.fromkeys([*rounded, *outputs])))

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The execution graph at batch 1: an op's precision is the suffix of the kernel that the plugin chose.

        Small products may be compiled into one "Subgraph", whose kernel names the precision at its ends: there a
        product is int8 when its dequantization was moved behind it, and what mixes values (a softmax) is float and an
        op of its own, as it is where the CPU has no such fusion. MACs are found by the layers' original names, which
        fusion carries on. Work that cannot be found again is listed as "unknown", which counts against int8.
        """
        adapter = self._adapter(model, {**self.options(candidate), "batch": 1})
        source = _read(model.path)
        source.reshape({port: [1, *_longest(port)] for port in source.inputs})
        mixing = openvino_graph.mixing(source)
        counted = [
            (node.get_friendly_name(), node.get_type_name(), count) for node, count in openvino_graph.macs(source)
        ]
        work = {name: count for name, _, count in counted}
        capable = {name for name, kind, _ in counted if kind in openvino_graph.WORK}
        owners = openvino_graph.owners_of(source, work)
        ops = []
        for node in adapter.compiled.get_runtime_model().get_ordered_ops():
            facts = {key: _text(value) for key, value in node.get_rt_info().items()}
            kind, kernel = facts["layerType"], facts["primitiveType"].rpartition("_")[2].lower()
            if kind in ("Const", "Input", "Output", "Reorder"):
                continue
            names = facts["originalLayersNames"].split(",")
            mine = {name.removesuffix(openvino_graph.DEQUANTIZED): name for name in names}
            done = [name for name in mine if name in work]
            if not done and kind in openvino_graph.WORK_LAYERS:
                done = [owners[name] for name in mine if owners.get(name) in work][:1]
            precision = {"i8": "int8"}.get(kernel, kernel)
            for name in done:
                inside = "int8" if kind == "Subgraph" and name + openvino_graph.DEQUANTIZED in names else precision
                ops.append(OpInfo(name, kind, inside, work.pop(name), name in capable))
            if not done:
                ops.append(OpInfo(node.get_friendly_name(), kind, precision, 0, kind in openvino_graph.WORK_LAYERS))
            if kind == "Subgraph":
                ops += [OpInfo(name, mixing[name], precision, 0, False) for name in mine if name in mixing]
        adapter.close()
        return [
            *ops,
            *(OpInfo(name, "lost in fusion", "unknown", count, name in capable) for name, count in work.items()),
        ]

    def weight_bytes(self, model: Model) -> int:
        """Weights and biases of convolutions, products and recurrent layers."""
        constants = {}
        for node in _read(model.path).get_ordered_ops():
            ports = node.input_values()[-3:] if node.get_type_name() in openvino_graph.RECURRENT else []
            if node.get_type_name() in openvino_graph.WORK:
                readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
                added = [one for one in readers if one.get_type_name() == "Add"]
                ports = [node.input_value(1), *(port for one in added for port in one.input_values())]
            for constant in filter(None, map(openvino_graph.stored, ports)):
                constants[constant.get_name()] = constant.get_byte_size()  # friendly names are not unique
        return sum(constants.values())

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """One thread; what is left in float by an int8 candidate runs in f32."""
        return {"threads": 1, "precision": candidate.precision, **candidate.runtime}

    def open(self, model: Model, candidate: Candidate) -> AdapterSession:
        """Load in this process."""
        return AdapterSession(
            model,
            self.runtime,
            self.options(candidate),
            lambda: _tap(model, {**self.options(FLOAT), **candidate.runtime}),
        )

    def _adapter(self, model: Model, options: dict[str, Any]) -> Any:
        try:
            return agent.open_model(self.runtime, str(model.path), options)
        except Exception as error:
            raise TargetError(agent.one_line(f"{model.path} does not load in OpenVINO", error)) from error


def _with_ranges(model: Model, candidate: Candidate, ranges: Ranges | None) -> Any:
    """One FakeQuantize a tensor, shared by its readers; weights symmetric, by the candidate's scheme.

    Weights of half the range have codes within +-64 of the same 255 levels: the plugin knows no others.
    """
    scheme = SCHEMES[candidate.scheme or ""]
    if ranges is None:
        raise TargetError(f"candidate '{candidate.id}' needs ranges: run the observers first")
    largest = HALF_RANGE_CODE if scheme.weight.bits == 7 else LARGEST_CODE
    wrong = [name for name, qparams in ranges.items() if qparams.scheme != scheme.activation]
    if wrong:
        raise TargetError(f"ranges of {wrong[:3]} are not of {scheme.id}, which the candidate asks for", "unsupported")
    agent.import_openvino()
    from openvino import opset13
    from openvino._offline_transformations import compress_quantize_weights_transformation

    graph = _read(model.path)
    made: dict[str, Any] = {}
    left = kept(candidate) | openvino_graph.misread(graph)
    for node, index, name in openvino_graph.placement(graph, left):
        if name not in ranges:
            raise TargetError(f"no range for tensor '{name}' of {model.path}: observe every tensor of the float graph")
        port = node.input_value(index)
        if port.get_node().get_type_name() == "FakeQuantize":  # reached before, through the same moving op
            continue
        if name not in made:
            ends = [np.full([1] * len(port.get_partial_shape()), end, np.float32) for end in limits(ranges[name])]
            made[name] = opset13.fake_quantize(port, *map(opset13.constant, ends * 2), 256)
        node.input(index).replace_source_output(made[name].output(0))
    for node in openvino_graph.weighted(graph):
        if node.get_friendly_name() in left:
            continue
        weight = openvino_graph.stored(port := node.input_value(1))
        whole = scheme.weight.granularity is Granularity.PER_TENSOR
        channels = () if whole else openvino_graph.channels_of(node, weight.data.ndim)
        others = tuple(axis for axis in range(weight.data.ndim) if axis not in channels)
        most = np.abs(weight.data).max(axis=others, keepdims=True)
        high = (np.where(most > 0, most, 1) * (127 / largest)).astype(np.float32)
        low_high = [opset13.constant(end) for end in (-high, high)]
        node.input(1).replace_source_output(opset13.fake_quantize(port, *low_high, *low_high, 255).output(0))
    graph.validate_nodes_and_infer_types()
    compress_quantize_weights_transformation(graph)
    return graph


def _by_nncf(model: Model, candidate: Candidate, batches: list[Batch]) -> Any:
    """NNCF's defaults, its transformer's, one of its presets with plain activations and ranges as the candidate's
    options say (mixed with histogram ranges is its most accurate public recipe), or int8 weights alone.
    """
    nncf = _import_nncf()
    preset = candidate.options["preset"]
    ignored = {"ignored_scope": nncf.IgnoredScope(names=sorted(left))} if (left := kept(candidate)) else {}
    if preset == "weights":
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.compress_weights(_read(model.path), mode=nncf.CompressWeightsMode.INT8_SYM, **ignored)
    if not batches:
        raise TargetError(f"candidate '{candidate.id}' needs calibration batches, got none")
    settings: dict[str, Any] = ignored
    if preset == "transformer":
        settings["model_type"] = nncf.ModelType.TRANSFORMER
    elif preset != "default":
        parameters = nncf.quantization.advanced_parameters
        ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet
        settings |= {
            "preset": nncf.QuantizationPreset(preset),
            "advanced_parameters": nncf.AdvancedQuantizationParameters(
                # Where products cannot overflow, the full range of the weights is used. Every CPU with bf16 has VNNI
                # or AMX; of one without, OpenVINO does not say.
                overflow_fix=nncf.OverflowFix.DISABLE if _has_bf16() else None,
                activations_range_estimator_params=getattr(
                    ranges, RANGES[candidate.options.get("ranges", "histogram")]
                ),
                activations_quantization_params=parameters.QuantizationParameters(per_channel=False),
            ),
        }
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(_read(model.path), nncf.Dataset(batches), subset_size=len(batches), **settings)
    except Exception as error:
        raise TargetError(agent.one_line(f"NNCF cannot quantize {model.path}", error)) from error


def _save(model: Any, path: Path, compress_to_fp16: bool = False) -> None:
    agent.import_openvino().save_model(model, str(path), compress_to_fp16=compress_to_fp16)


def _read(path: Path) -> Any:
    try:
        return agent.import_openvino().Core().read_model(str(path))
    except Exception as error:
        raise TargetError(agent.one_line(f"{path} is no OpenVINO model", error)) from error


def _specs(ports: Sequence[Any], wanted: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The program's specs with dtype and shape as the IR has them. Raises TargetError when the names differ."""
    found = {name: port for port in ports for name in port.get_names()}
    lacking = [spec.name for spec in wanted if spec.name not in found]
    if lacking:
        raise TargetError(f"the OpenVINO model lacks {lacking}, it has {sorted(found)}")
    return tuple(
        TensorSpec(
            spec.name,
            str(np.dtype(found[spec.name].get_element_type().to_dtype())),
            tuple(None if d.is_dynamic else d.get_length() for d in found[spec.name].get_partial_shape()),
            varies=spec.varies,
        )
        for spec in wanted
    )


def _bound(model: Any, ov: Any, inputs: Iterable[TensorSpec]) -> None:
    """Tell the IR between which bounds an axis varies."""
    varying = [spec for spec in inputs if spec.varies]
    if not varying:
        return
    ports = {name: port for port in model.inputs for name in port.get_names()}
    shapes = {port: port.get_partial_shape() for port in model.inputs}
    for spec in varying:
        assert spec.varies is not None
        axis, lowest, highest = spec.varies
        shapes[ports[spec.name]][axis] = ov.Dimension(lowest, highest)
    model.reshape(shapes)


def _longest(port: Any) -> list[Any]:
    """A port's axes behind the batch, at the upper bound of what varies."""
    axes = list(port.get_partial_shape())[1:]
    return [axis.get_max_length() if axis.is_dynamic and axis.get_max_length() > 0 else axis for axis in axes]


def _tap(model: Model, options: dict[str, Any]) -> Tap:
    """One compiled model for each set of names asked, with these as outputs."""
    core = agent.import_openvino().Core()
    rounded = set(openvino_graph.rounded(_read(model.path)))  # none in a float graph
    inputs = {spec.name for spec in model.inputs} - rounded
    results = {spec.name for spec in model.outputs}
    compiled: dict[tuple[str, ...], Any] = {}

    def tap(batch: Batch, names: Sequence[str]) -> Batch:
        made = tuple(name for name in names if name not in inputs)
        if made not in compiled:
            graph = _read(model.path)
            codes = openvino_graph.rounded(graph)
            for name in made:
                if name in codes:
                    codes[name].get_tensor().set_names({_TAPPED + name})
                    graph.add_outputs([codes[name]])
            graph.add_outputs([name for name in made if name not in results and name not in codes])
            compiled[made] = core.compile_model(graph, "CPU", agent.openvino_settings(options)).create_infer_request()
        request = compiled[made]
        request.infer(batch)
        where = {name: _TAPPED + name if name in rounded else name for name in made}
        return {name: batch[name] if name in inputs else request.get_tensor(where[name]).data.copy() for name in names}

    return tap


_TAPPED = "rounded:"  # what a tapped tensor is called behind its FakeQuantize


@lru_cache(maxsize=1)
def _has_bf16() -> bool:
    capabilities = agent.import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def _import_nncf() -> Any:
    agent.import_openvino()
    import nncf
    import nncf.quantization.advanced_parameters
    import nncf.quantization.range_estimator

    nncf.set_log_level(logging.ERROR)
    return nncf


def _text(value: Any) -> str:
    return str(value.astype(str) if hasattr(value, "astype") else value)


TARGET = OpenVinoTarget()
