"""ONNX Runtime on CPUs: QDQ, unsigned 8-bit activations, signed 8-bit weights per channel."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.qparams import Ranges, limits
from calibration.schemes import SCHEMES, Granularity, Scheme
from targets import agent, onnx_graph, onnx_macs, onnx_placement, onnx_weights
from targets.base import (
    Batch,
    Candidate,
    Capabilities,
    Model,
    OpInfo,
    Program,
    Support,
    TargetError,
    kept,
    to_model_layout,
)
from targets.session import AdapterSession, Tap

if TYPE_CHECKING:
    import onnx

SCHEME, DYNAMIC = "u8s8", "u8s8-dynamic"
HALF_RANGE = "u8s8-half_range"
STATIC = (SCHEME, "u8s8-symmetric", "u8s8-per_tensor", HALF_RANGE)
FILE = "model.onnx"

CANDIDATES = (
    Candidate("float", "none", "f32"),
    Candidate("ort-minmax-u8s8", "onnxruntime", "int8", SCHEME, "minmax"),
    Candidate("ours-minmax", "ours", "int8", SCHEME, "minmax"),
    Candidate("ours-mse", "ours", "int8", SCHEME, "mse"),
)
# For networks of products: ranges that differ from sample to sample, and nothing to calibrate. Convolutions in dynamic
# int8 are an order of magnitude slower than in float, so it is not proposed for networks of these.
PRODUCTS = Candidate("ort-dynamic", "onnxruntime", "int8", DYNAMIC)
HALF = Candidate("float16", "onnxruntime", "f16")
VARIANTS = {f"graph-{level}": {"graph": level} for level in ("none", "basic", "extended")}
LACKING = {
    "signed": "its CPU provider has no kernel for fully connected layers on signed activations",
    "int16": "its CPU provider has no integer kernels for activations of 16 bits and would run them in float",
    "bf16": "its CPU provider has no bf16 arithmetic",
}

# What onnxruntime.quantization quantizes AND the CPU provider has an integer kernel for.
_INT8 = {
    "Conv": "conv1d conv2d convolution",
    "Gemm": "linear addmm",
    "MatMul": "matmul mm bmm",
    "Add": "add batch_norm",
    "Mul": "mul",
    "Concat": "cat",
    "MaxPool": "max_pool1d max_pool2d max_pool2d_with_indices",
    "AveragePool": "avg_pool1d avg_pool2d",
    "GlobalAveragePool": "",
    "Sigmoid": "sigmoid silu",
    "LeakyRelu": "leaky_relu",
    "Softmax": "softmax _softmax",
}
_MOVED = (
    "view reshape _unsafe_view flatten permute transpose squeeze unsqueeze expand slice select dropout clone "
    "contiguous embedding"
)
_FUSED = "relu relu6 hardtanh clamp"
_FLOAT = {
    "has no integer kernel in ONNX Runtime": "gelu layer_norm hardswish hardsigmoid tanh exp sub div "
    "pow sqrt rsqrt mean sum conv_transpose1d conv_transpose2d scaled_dot_product_attention",
    "exported as a mean, which has no integer kernel in ONNX Runtime": "adaptive_avg_pool1d adaptive_avg_pool2d",
    "recurrent cells stay float: quantize_static leaves them": "gru lstm",
    "unrolled over time: its products are int8, all between them stays float": "rnn_tanh",
}
OPS: dict[str, Support] = {
    **{f"aten.{name}": Support("int8") for names in [*_INT8.values(), _MOVED] for name in names.split()},
    **{f"aten.{name}": Support("int8", "part of the op before it") for name in _FUSED.split()},
    **{f"aten.{name}": Support("float", reason) for reason, names in _FLOAT.items() for name in names.split()},
    **onnx_graph.REFUSED,
}


class OnnxRuntimeTarget:
    """See targets/base.py."""

    name = "onnxruntime"
    version = "2"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnxruntime"
    runtime = "onnxruntime"
    capabilities = Capabilities(
        program="onnx",
        batch="dynamic",
        dtypes=frozenset({"float32", "int64", "int32"}),
        schemes=frozenset({*STATIC, DYNAMIC}),
        ops=OPS,
        saturating=("default", "half_range"),  # exact kernels, and fast ones
        lengths="free",
        further=(PRODUCTS, HALF),
        variants=VARIANTS,
        lacking=LACKING,
    )

    def lower(self, program: Program, out: Path) -> Model:
        """The ONNX graph with shapes inferred and constants folded, as onnxruntime's quantizer wants it.

        Float reference and candidates all come from this file. Raises TargetError for what cannot be exported.
        """
        if program.kind == "pt2":
            program = onnx_graph.export(program, out)
        with _only_errors():
            try:
                _prepare(program.path.resolve(), (out / FILE).resolve())
            except Exception as error:
                raise TargetError(f"{program.path} cannot be prepared for ONNX Runtime: {_line(error)}") from error
        graph = onnx_graph.load(out / FILE)
        onnx_graph.save(graph, out / FILE)
        clamped = onnx_graph.clamped(graph)
        return Model(
            out / FILE,
            onnx_graph.specs(graph, program.inputs),
            onnx_graph.specs(graph, program.outputs),
            tuple(name for name in onnx_graph.activations(graph) if name not in clamped),
        )

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """Dynamic int8 too where products with weights do most of the work."""
        return (*CANDIDATES, PRODUCTS) if _of_products(onnx_graph.load(model.path)) else CANDIDATES

    def layers(self, model: Model) -> Sequence[str]:
        """Outputs of convolutions and products with stored weights."""
        return onnx_graph.layers(onnx_graph.load(model.path))

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """QDQ by onnxruntime's own quantizer: over raw batches, or with our ranges in place of its calibrator's.

        With our ranges, what only float ops read stays float, logits too, and so does what targets/onnx_placement.py
        names: transformers live on it.
        """
        if candidate.precision == "f16":
            onnx_graph.save(onnx_weights.half_weights(onnx_graph.load(model.path)), out / FILE)
            return Model(out / FILE, model.inputs, model.outputs, model.tensors)
        takes = STATIC if candidate.quantizer == "ours" else (SCHEME, DYNAMIC)
        if candidate.scheme is None or candidate.scheme not in takes:
            raise TargetError(
                f"onnxruntime takes {', '.join(takes)}; candidate '{candidate.id}' asks {candidate.scheme}",
                "unsupported",
            )
        scheme = SCHEMES[candidate.scheme]
        if candidate.quantizer == "ours" and ranges is None:
            raise TargetError(f"candidate '{candidate.id}' needs ranges: run the observers first")
        if candidate.quantizer == "ours":
            assert ranges is not None
            _check_ranges(model, ranges, scheme)

        path, names = out / FILE, kept(candidate)
        source = onnx_graph.load(model.path)
        left = [node.name for node in source.graph.node if names.intersection(node.output)]
        if candidate.scheme == DYNAMIC:
            _quantize_dynamic(model.path, path, [*left, *(f"{name}_MatMul" for name in left)])  # a Gemm becomes one
            made = {name for node in onnx_graph.load(path).graph.node for name in node.output}
            return Model(path, model.inputs, model.outputs, tuple(name for name in model.tensors if name in made))

        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        if candidate.quantizer == "ours":
            left += onnx_placement.floats(source)
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder, _only_errors():
            cache = Path(folder) / "ranges.json"
            if candidate.quantizer == "ours":
                assert ranges is not None
                _write_ranges(ranges, onnx_graph.clamped(onnx_graph.load(model.path)), cache)
            try:
                quantize_static(
                    str(model.path),
                    str(path),
                    None if cache.exists() else _reader(batches, model),
                    quant_format=QuantFormat.QDQ,
                    per_channel=scheme.weight.granularity is Granularity.PER_CHANNEL,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    reduce_range=candidate.scheme == HALF_RANGE,  # codes within +-64
                    calibrate_method=CalibrationMethod.MinMax,
                    calibration_cache_path=str(cache) if cache.exists() else None,
                    nodes_to_exclude=left,
                    # It drops a Relu whose work an asymmetric range does; a symmetric one does not, so it must be told.
                    extra_options={"ActivationSymmetric": scheme.activation.symmetric},
                )
            except Exception as error:
                raise TargetError(f"onnxruntime cannot quantize {model.path}: {_line(error)}") from error
        graph = onnx_graph.load(path)
        if candidate.quantizer == "ours":
            onnx_placement.spare_float_readers(graph, left, source)
        onnx_weights.own_weights(graph)
        onnx_graph.save(graph, path)
        return Model(path, model.inputs, model.outputs, tuple(onnx_graph.dequantized(graph)))

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The ops of the graph that ONNX Runtime itself made of the file, with the same session options.

        An op is "int8" when it is an integer kernel or moves integers; ops on shapes are left out. MACs are found by
        the name that ONNX Runtime's fusions carry on; work that cannot be found again is listed as "unknown", which
        counts against int8.
        """
        original = onnx_graph.load(model.path)
        work = onnx_graph.macs(original)
        owners, shapes = _owners(original, work), onnx_graph.not_float(original)
        ops: list[OpInfo] = []
        quantized: set[str] = {i.name for i in original.graph.initializer if i.data_type in (2, 3)}  # uint8, int8
        for node in _optimized(model, self.options(candidate)).graph.node:
            if shapes.intersection(node.output):
                continue
            int8 = node.op_type.startswith(_INTEGER) or bool(quantized.intersection(node.input[:1]))
            if node.op_type == "QuantizeLinear" or (int8 and not _gives_float(node)):
                quantized.update(node.output)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith("Reorder"):
                continue
            kind = _plain(node.op_type)
            output = owners.get(_plain_name(node.name), "") if kind in _WORK else ""
            precision = "int8" if int8 else "f32"
            ops.append(OpInfo(node.name, kind, precision, work.pop(output, 0), kind in _INT8))
        lost = [OpInfo(output, "lost in fusion", "unknown", macs, True) for output, macs in work.items()]
        return [*ops, *lost]

    def weight_bytes(self, model: Model) -> int:
        """Weights and biases of convolutions, products and recurrent layers."""
        return onnx_weights.weight_bytes(onnx_graph.load(model.path))

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """One thread; the file decides the precision, and whether fast kernels would be wrong."""
        fast = {"fast_products": True} if candidate.scheme == HALF_RANGE else {}
        return {"threads": 1, "precision": candidate.precision, **fast, **candidate.runtime}

    def open(self, model: Model, candidate: Candidate) -> AdapterSession:
        """Load in this process."""
        return AdapterSession(
            model, self.runtime, self.options(candidate), lambda: _tap(model, self.options(candidate))
        )


def _prepare(source: Path, file: Path) -> None:
    """onnxruntime's own preparation; where its symbolic shapes give up (a Resize with computed sizes), ONNX's alone."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        try:
            with contextlib.chdir(folder):  # where it leaves a copy of what it could not do
                quant_pre_process(str(source), str(file))
        except Exception:  # what is wrong with the model itself, the second try says too
            quant_pre_process(str(source), str(file), skip_symbolic_shape=True)


_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize")  # how integer kernels' names begin


def _of_products(graph: onnx.ModelProto) -> bool:
    """Do products with stored weights make up at least half of the work?"""
    stored = {tensor.name for tensor in graph.graph.initializer}
    owners = {onnx_graph.made_by(node): node for node in graph.graph.node}
    work = onnx_graph.macs(graph)
    products = (n for n in work if owners[n].op_type in ("MatMul", "Gemm") and owners[n].input[1] in stored)
    return 2 * sum(work[name] for name in products) >= sum(work.values()) > 0


def _quantize_dynamic(source: Path, file: Path, left: list[str]) -> None:
    """Weights of products to int8, one scale each: with a scale per channel the kernel is slower than float."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _only_errors():
        try:
            quantize_dynamic(
                str(source),
                str(file),
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                nodes_to_exclude=left,
            )
        except Exception as error:
            raise TargetError(f"onnxruntime cannot quantize {source} dynamically: {_line(error)}") from error
    graph = onnx_graph.load(file)
    onnx_weights.own_weights(graph)
    onnx_graph.save(graph, file)


_WORK = frozenset(onnx_macs.RULES)


def _check_ranges(model: Model, ranges: Ranges, scheme: Scheme) -> None:
    lacking = [name for name in model.tensors if name not in ranges]
    if lacking:
        raise TargetError(
            f"no ranges for {lacking[:3]} ({len(lacking)} in all): observe every tensor of the float graph"
        )
    wrong = [name for name, qparams in ranges.items() if qparams.scheme != scheme.activation]
    if wrong:
        raise TargetError(f"ranges of {wrong[:3]} are not of {scheme.id}, which the candidate asks for", "unsupported")


def _write_ranges(ranges: Ranges, clamped: Mapping[str, str], path: Path) -> None:
    """In the file that onnxruntime's calibrators leave; it wants NumPy scalars.

    A clamped tensor has the range of what is left of it: beyond that its values end up at the same clamp.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    rows = {}
    for name, qparams in ranges.items():
        lo, hi = limits(qparams)
        if qparams.scheme.symmetric:  # it takes the larger end for both, over 255 steps
            hi = 127.5 * qparams.scale.astype(np.float64)
            lo = -hi
        rows[name] = TensorData(lowest=np.float32(lo), highest=np.float32(hi))
    rows |= {name: rows[after] for name, after in clamped.items() if after in rows}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, rows), str(path))


def _reader(batches: Iterable[Batch], model: Model) -> Any:
    """A CalibrationDataReader over raw batches."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> Batch | None:
            batch = next(self._batches, None)
            return None if batch is None else to_model_layout(batch, model.inputs)

    return Reader()


def _optimized(model: Model, options: dict[str, Any]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        file = Path(folder) / FILE
        try:
            agent.onnxruntime_session(str(model.path), options, str(file))
        except Exception as error:
            raise TargetError(f"{model.path} does not load in onnxruntime: {_line(error)}") from error
        return onnx_graph.load(file)


def _tap(model: Model, options: dict[str, Any]) -> Tap:
    """One session for each set of names asked, with these as outputs."""
    import onnx

    graph = onnx_graph.load(model.path)
    stands_for = onnx_graph.dequantized(graph)  # none in a float graph
    inputs = {value.name for value in graph.graph.input} - stands_for.keys()
    sessions: dict[tuple[str, ...], Any] = {}

    def tap(batch: Batch, names: Sequence[str]) -> Batch:
        wanted = {name: stands_for.get(name, name) for name in names}
        found = _values(batch, tuple(name for name in wanted.values() if name not in inputs))
        return {name: batch[name] if name in inputs else found[tensor] for name, tensor in wanted.items()}

    def _values(batch: Batch, made: tuple[str, ...]) -> Batch:
        if made and made not in sessions:
            tapped = onnx.ModelProto()
            tapped.CopyFrom(graph)
            tapped.graph.ClearField("output")
            tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
            sessions[made] = agent.onnxruntime_session(tapped.SerializeToString(), options)
        values = sessions[made].run(list(made), batch) if made else []
        return dict(zip(made, values, strict=True))

    return tap


def _owners(graph: onnx.ModelProto, work: Mapping[str, int]) -> dict[str, str]:
    """Names that an op may have after fusion -> its output in the file: its own, or its activation's output."""
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    owners = {}
    for node in graph.graph.node:
        output = onnx_graph.made_by(node)
        if output in work:
            owners[node.name] = owners[output] = output
            after = readers.get(output, [])
            if len(after) == 1:
                owners[after[0].output[0]] = output
    return owners


def _plain_name(name: str) -> str:
    return re.sub(r"(_token_\d+|_nchwc)+$", "", name).removeprefix("fused ")


_PLAIN = {"QGemm": "Gemm", "FusedGemm": "Gemm", "FusedConv": "Conv", "NhwcMaxPool": "MaxPool"}


def _plain(kind: str) -> str:
    """The op's name in ONNX: QLinearConv, FusedConv -> Conv; MatMulIntegerToFloat, FusedMatMul -> MatMul."""
    if kind.startswith("MatMulInteger") or kind in ("FusedMatMul", "DynamicQuantizeMatMul"):
        return "MatMul"
    return _PLAIN.get(kind, kind.removeprefix("QLinear"))


def _gives_float(node: onnx.NodeProto) -> bool:
    """An integer op that leaves real numbers: dequantization, or a product without an output scale."""
    quiet = node.op_type == "QGemm" and (len(node.input) < 8 or not node.input[7])
    return quiet or node.op_type in ("DequantizeLinear", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger")


@contextmanager
def _only_errors() -> Iterator[None]:
    """onnxruntime's quantizer reports its progress and advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


TARGET = OnnxRuntimeTarget()
