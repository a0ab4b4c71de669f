"""Loads models, runs them, times them, and writes down what it saw: `python agent.py REQUEST.json`.

One file on purpose: it is copied to devices. Needs Python 3.9, NumPy and the one runtime that a model asks for; imports
nothing of this project. The host starts it in a fresh process too, so a local figure is made as a remote one.

Request (paths are relative to its own folder):
    {"protocol": 1, "result": "result.json",
     "models": [{"id", "runtime", "path", "sha256", "options": {"threads": 1, "precision": "f32", "batch": 1, ...}}],
     "tasks": [{"do": "run", "model": ID, "inputs": FOLDER, "outputs": "x.npz"},
               {"do": "time", "models": [IDS], "inputs": FOLDER, "samples": "t.npz", "warmup_s", "budget_s",
                "min_rounds", "max_rounds", "seed"},
               {"do": "layers", "model": ID, "inputs": FOLDER, "runs": 20, "seed"},
               {"do": "survey"}]}
`inputs` holds one NAME.npy an input: all samples, in the model's own layout; null, for timing: drawn for the model's
own shapes. `batch` null means 1. With "lock": FILE,
requests that name the same file wait for each other.

Result: {"protocol", "device", "models", "tasks", "files": {name: sha256 of what was written}, "error": null or {"kind",
"message"}}, with kind "protocol" (the request), "hash" (not the model that was meant), "runtime" (the runtime's own
words), "missing" (a package), "memory", "space" (disk full) or "input". It is written aside, synced and renamed; the
last line on stdout is `DONE <sha256 of it>`, for an exit code alone can lie (adb). Exit 0, or 1 with an error. While it
times, a line `PROGRESS {json}` a second. SIGTERM and the end of a piped stdin (the host is gone) end the process with
nothing half-written; SIGINT while it times ends the rounds, and what was measured is the result ("interrupted").
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import random
import signal
import stat
import sys
import tempfile
import threading
import time
import zipfile
from array import array as compact
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

try:
    import numpy as np
except ImportError:  # a device is asked what it lacks before anything is brought to it
    np = None  # type: ignore[assignment]

PROTOCOL = 1
Arrays = dict[str, Any]  # tensor name -> array, first axis = batch
Layer = tuple[str, str, str, "str | None", "list[float]"]  # op, its name, kernel, precision, ms of inferences


class AgentError(Exception):
    """What ends a request; `kind` as in the result."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# ---------------------------------------------------------------------------------------------------------- adapters


class Adapter:
    """A loaded model. `prepare` binds inputs, `invoke` is one inference and alone is timed, `read` gives float outputs.

    Whatever a runtime wants of its inputs and outputs (integer codes, copies) is done in `prepare` and `read`.
    """

    runtime_version = ""

    def prepare(self, inputs: Arrays) -> Any:
        """Bind a batch (float interface, the model's layout). Returns a handle for `invoke`."""
        raise NotImplementedError

    def invoke(self, handle: Any) -> None:
        """One inference on what `prepare` bound."""
        raise NotImplementedError

    def read(self, handle: Any) -> Arrays:
        """Outputs of the last `invoke` as float32, each an own copy."""
        raise NotImplementedError

    def specs(self) -> dict[str, Any]:
        """Input name -> (shape, dtype's name) at the float interface; a free axis is no positive number."""
        raise NotImplementedError

    def run(self, inputs: Arrays) -> Arrays:
        """Bind, infer, read."""
        handle = self.prepare(inputs)
        self.invoke(handle)
        return self.read(handle)

    def layers(self, handle: Any, runs: int) -> list[Layer] | None:
        """Of a model opened with the option "profile": layers, from `runs` inferences; None where nothing tells."""
        return None

    def close(self) -> None:
        """Let go of the model."""


GRAPH_LEVELS = {  # option "graph" -> how far ONNX Runtime rewrites the graph, a name of GraphOptimizationLevel
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# What a file that decides for itself may hold: "f16" and "w8" are float arithmetic on weights that are stored smaller.
STORED = ("f32", "f16", "w8", "int8")
# What ONNX Runtime must not do when it loads a file: quantize the float weights of a layer between two quantized ones,
# and store weights anew as unsigned, which fails where two ops share one.
DISABLED = ["WeightBiasQuantization", "QDQS8ToU8Transformer"]
# Before VNNI, x86's fast int8 kernels add pairs of products in 16 bits, which weights beyond 7 bits overflow: the same
# file then gives other answers. There, and only there, "1" takes kernels that are exact and slower.
EXACT_PRODUCTS = "session.x64quantprecision"


def onnxruntime_session(model: str | bytes, options: dict[str, Any], optimized: str = "") -> Any:
    """An InferenceSession of a file or its bytes, as every part of ours loads one. `optimized`: where to store the
    graph that it makes of it. Options: threads, fast_products (for weights of 7 bits, whose products fit into 16),
    graph (of GRAPH_LEVELS), profile (the times of single ops).
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.get("threads", 1)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # it warns that an optimized file fits this machine only: that is the point
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, GRAPH_LEVELS[options.get("graph", "all")])
    settings.add_session_config_entry(EXACT_PRODUCTS, "0" if options.get("fast_products") else "1")
    if optimized:
        settings.optimized_model_filepath = optimized
    if options.get("profile"):
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(tempfile.gettempdir()) / f"agent-{os.getpid()}")
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED)


class OnnxRuntime(Adapter):
    """ONNX Runtime on its CPU provider. Options: the session's, precision (of STORED: the file decides)."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        import onnxruntime as ort

        self.runtime_version = ort.__version__
        if options.get("precision", "f32") not in STORED:
            raise ValueError(f"ONNX Runtime's CPU provider has no {options['precision']} arithmetic")
        self.session = onnxruntime_session(path, options)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def prepare(self, inputs: Arrays) -> Any:
        """Bound in place: nothing is copied at an inference."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        binding = self.session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        return binding, arrays  # the binding does not own the arrays: keep them

    def invoke(self, handle: Any) -> None:
        """One inference."""
        self.session.run_with_iobinding(handle[0])

    def specs(self) -> dict[str, Any]:
        """As the file says; its element types are C's names."""
        names = {"float": "float32", "double": "float64"}
        kinds = {port.name: port.type[len("tensor(") : -1] for port in self.session.get_inputs()}
        return {p.name: (p.shape, names.get(kinds[p.name], kinds[p.name])) for p in self.session.get_inputs()}

    def read(self, handle: Any) -> Arrays:
        """Outputs by name."""
        return {name: as_float(value) for name, value in pairs(self.outputs, handle[0].copy_outputs_to_cpu())}

    def layers(self, handle: Any, runs: int) -> list[Layer] | None:
        """From its profile, a list of trace events; microseconds. What a node reads first says in what it computes."""
        for _ in range(runs):
            self.invoke(handle)
        profile = Path(self.session.end_profiling())
        events = json.loads(profile.read_text())
        profile.unlink()
        found: dict[str, Layer] = {}
        for event in events:
            name, _, what = event["name"].rpartition("_kernel")
            if event["cat"] == "Node" and what == "_time":
                told = event["args"]
                kinds = [kind for tensor in told.get("input_type_shape", []) for kind in tensor]
                precision = ELEMENTS.get(kinds[0], kinds[0]) if kinds else None
                row: Layer = (told["op_name"], name, told["provider"], precision, [])
                found.setdefault(name, row)[4].append(event["dur"] / 1e3)
        return list(found.values())


class OpenVino(Adapter):
    """OpenVINO's CPU device: one stream, latency. Options: threads, precision, batch, max_isa (oneDNN's name).

    Without the precision hint a CPU that has bf16 silently uses it: "f32" and "int8" (for what is left in float) ask
    for f32. Batch: null leaves the first axis free.
    """

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        if options.get("max_isa"):  # read once, when a process first uses it: one value for all models of a request
            os.environ["ONEDNN_MAX_CPU_ISA"] = options["max_isa"]
        ov = import_openvino()
        self.runtime_version = ov.get_version()
        core = ov.Core()
        model = core.read_model(path)
        batch = options.get("batch")
        if batch and any(port.get_partial_shape()[0].is_dynamic for port in model.inputs):
            model.reshape({port: [batch, *list(port.get_partial_shape())[1:]] for port in model.inputs})
        self.outputs = [port.get_any_name() for port in model.outputs]  # compiling may give them other names as well
        self.compiled = core.compile_model(model, "CPU", openvino_settings(options))
        self.request = self.compiled.create_infer_request()
        self.invoked = 0  # inferences; see `layers`

    def prepare(self, inputs: Arrays) -> Any:
        """An aligned copy becomes the request's input."""
        ov = import_openvino()
        tensors = {name: ov.Tensor(np.array(array, order="C")) for name, array in inputs.items()}
        for name, tensor in tensors.items():
            self.request.set_tensor(name, tensor)
        return tensors

    def invoke(self, handle: Any) -> None:
        """One inference; outputs stay in the request's own memory."""
        self.request.infer(share_inputs=True, share_outputs=True)
        self.invoked += 1

    def specs(self) -> dict[str, Any]:
        """As compiled."""
        shapes = {port.get_any_name(): port.get_partial_shape() for port in self.compiled.inputs}
        kinds = {port.get_any_name(): port.get_element_type().to_dtype() for port in self.compiled.inputs}
        return {n: ([a.get_length() if a.is_static else 0 for a in shape], kinds[n]) for n, shape in shapes.items()}

    def read(self, handle: Any) -> Arrays:
        """Outputs by name."""
        named = pairs(self.outputs, self.compiled.outputs)
        return {name: as_float(self.request.get_tensor(port).data) for name, port in named}

    def layers(self, handle: Any, runs: int) -> list[Layer] | None:
        """From its performance counters, means over all inferences since the model was compiled, in whole microseconds.

        The first inferences take many times as long, so what the counters had before these `runs` is taken off. A
        kernel's name ends with the precision that it computes in.
        """
        self.invoke(handle)
        cold = self._counted()  # all that runs: later what takes less than a microsecond is not told any more
        for _ in range(UNCOUNTED):
            self.invoke(handle)
        before, so_far = self._counted(), self.invoked
        for _ in range(runs):
            self.invoke(handle)
        after = self._counted()
        rows: list[Layer] = []
        for name, (node, _) in {**cold, **after}.items():
            then, now = (found[name][1] if name in found else 0.0 for found in (before, after))
            spent = max(0.0, now * self.invoked - then * so_far) / runs
            precision = ELEMENTS.get(node.exec_type.rpartition("_")[2].lower())
            rows.append((node.node_type, name, node.exec_type, precision, [spent / 1e3]))
        return rows

    def _counted(self) -> dict[str, tuple[Any, float]]:
        """Name -> what the counters say of a node that ran, and its mean in microseconds."""
        ran = [node for node in self.request.profiling_info if node.status.name == "EXECUTED"]
        return {node.node_name: (node, node.real_time.total_seconds() * 1e6) for node in ran}

    def close(self) -> None:
        """Free the compiled model."""
        del self.request, self.compiled


UNCOUNTED = 10  # inferences before those whose layers are told


class TfLite(Adapter):
    """A .tflite file on LiteRT (ai-edge-litert), or on tflite-runtime where only that is installed.

    Options: threads, precision (of STORED: the file decides), batch, and resolver: "auto" (XNNPACK and optimised
    kernels), "builtin" (without XNNPACK) or "reference" (the plain built-in kernels, the same bits on every machine).
    """

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        package = "ai_edge_litert" if importlib.util.find_spec("ai_edge_litert") else "tflite_runtime"
        tflite = importlib.import_module(package + ".interpreter")
        self.runtime_version = f"{package} {getattr(sys.modules[package], '__version__', 'unknown')}"
        if options.get("precision", "f32") not in STORED:
            raise ValueError(f"TFLite has no {options['precision']} arithmetic on a CPU")
        kinds = tflite.OpResolverType
        plain = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        resolvers = {"auto": kinds.AUTO, "builtin": plain, "reference": kinds.BUILTIN_REF}
        resolver = options.get("resolver", "auto")
        if resolver not in resolvers:
            raise ValueError(f"unknown resolver '{resolver}': known are {sorted(resolvers)}")
        self.interpreter = tflite.Interpreter(
            model_path=path,
            num_threads=options.get("threads", 1),
            experimental_op_resolver_type=resolvers[resolver],
        )
        self._allocate(options.get("batch"))
        runner = self.interpreter.get_signature_runner()
        self.inputs, self.outputs = runner.get_input_details(), runner.get_output_details()

    def _allocate(self, batch: Any) -> None:
        """Resize the inputs to `batch`. Raises ValueError where the file does not declare its first axis free (the
        kernels may run then, and give other numbers), or where its ops do not follow."""
        details = self.interpreter.get_input_details()
        if batch and any(detail["shape"][0] != batch for detail in details):
            try:
                for detail in details:
                    shape = [batch, *(int(n) for n in detail["shape"][1:])]
                    self.interpreter.resize_tensor_input(detail["index"], shape, strict=True)
                self.interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                fixed = int(details[0]["shape"][0])
                raise ValueError(f"the batch of this model is fixed at {fixed}, asked for {batch}: {error}") from error
        else:
            self.interpreter.allocate_tensors()

    def prepare(self, inputs: Arrays) -> Any:
        """Codes for integer inputs, copied into the interpreter."""
        for name, detail in self.inputs.items():
            self.interpreter.set_tensor(detail["index"], encode(inputs[name], detail))
        return None

    def invoke(self, handle: Any) -> None:
        """One inference."""
        self.interpreter.invoke()

    def specs(self) -> dict[str, Any]:
        """As the signature says; an integer input with a scale takes floats."""
        return {
            name: ([int(n) for n in d["shape"]], "float32" if d["quantization"][0] else np.dtype(d["dtype"]).name)
            for name, d in self.inputs.items()
        }

    def read(self, handle: Any) -> Arrays:
        """Outputs by name; codes become the numbers that they stand for."""
        return {name: decode(self.interpreter.get_tensor(d["index"]), d) for name, d in self.outputs.items()}

    def close(self) -> None:
        """Free the interpreter."""
        del self.interpreter


def encode(array: Any, detail: dict[str, Any]) -> Any:
    """Floats in a TFLite tensor's codes: float32 division, round half to even, saturate. Other types are cast."""
    dtype, (scale, zero) = np.dtype(detail["dtype"]), detail["quantization"]
    array = np.asarray(array)
    if dtype.kind not in "iu" or not scale or array.dtype.kind != "f":
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(array / np.float32(scale)) + zero, limits.min, limits.max).astype(dtype)


def decode(array: Any, detail: dict[str, Any]) -> Any:
    """A TFLite tensor as float32."""
    scale, zero = detail["quantization"]
    if array.dtype.kind in "iu" and scale:
        return (array.astype(np.int64) - zero).astype(np.float32) * np.float32(scale)
    return as_float(array)


def openvino_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Properties for `compile_model`: one stream, latency, the precision asked for.

    `rest`: precision of what is not int8, f32 where it is not given. `low_precision` False: without the plugin's
    rewrite of quantized graphs, which then run in float between their roundings.
    """
    precision = options.get("precision", "f32")
    return {
        **({} if options.get("low_precision", True) else {"LP_TRANSFORMS_MODE": "NO"}),
        "INFERENCE_NUM_THREADS": options.get("threads", 1),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": options.get("rest", "f32") if precision in STORED else precision,
        "PERF_COUNT": bool(options.get("profile")),
    }


def import_openvino() -> Any:
    """The package, without the processes that it and NNCF start to report each use over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed": both go on without
    import openvino

    return openvino


# Runtime name -> opens a model: (path, options) -> Adapter. Each imports its own runtime inside.
ADAPTERS: dict[str, Callable[[str, dict[str, Any]], Adapter]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "tflite": TfLite,
}


def open_model(runtime: str, path: str, options: dict[str, Any]) -> Adapter:
    """A model on a runtime of the table, or on that of a .py file (`runtime` is its path) with `open(path, options)`.

    Raises AgentError "protocol" for a runtime that is neither; whatever the runtime raises passes through.
    """
    if runtime in ADAPTERS:
        return ADAPTERS[runtime](str(path), options)
    if not (runtime.endswith(".py") and Path(runtime).is_file()):
        raise AgentError("protocol", f"unknown runtime '{runtime}': known are {sorted(ADAPTERS)}, or a .py file")
    spec = importlib.util.spec_from_file_location("agent_runtime_" + Path(runtime).stem, runtime)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    adapter: Adapter = module.open(str(path), options)
    return adapter


def as_float(array: Any) -> Any:
    """An own float32 copy."""
    return np.array(array, dtype=np.float32)


def pairs(left: Any, right: Any) -> Any:
    """`zip` for two lists of one length (Python 3.9's has no `strict`)."""
    if len(left) != len(right):
        raise ValueError(f"{len(left)} names for {len(right)} values")
    return zip(left, right)  # noqa: B905


# ------------------------------------------------------------------------------------------------------------- tasks


class Loaded:
    """A model of the request with its record in the result."""

    def __init__(self, row: dict[str, Any], folder: Path, alone: bool) -> None:
        self.id, self.batch, self.alone = row["id"], row.get("options", {}).get("batch") or 1, alone
        path, runtime = folder / row["path"], row["runtime"]
        if not isinstance(self.batch, int) or self.batch < 1:
            raise AgentError("protocol", f"model '{self.id}': batch {self.batch} is no positive whole number")
        if not path.is_file():
            raise AgentError("input", f"model '{self.id}': no file {path}")
        found = sha256_model(path)
        if found != row["sha256"]:
            raise AgentError("hash", f"model '{self.id}': {path} has sha256 {found}, expected {row['sha256']}")
        self.before = memory("VmRSS")
        start = time.perf_counter_ns()
        try:
            known = runtime in ADAPTERS or not runtime.endswith(".py")
            self.adapter = open_model(runtime if known else str(folder / runtime), str(path), row["options"])
        except AgentError:
            raise
        except Exception as error:
            what = f"model '{self.id}' on {runtime} does not load"
            raise AgentError(kind_of(error), one_line(what, error)) from error
        self.record = {
            "runtime": runtime,
            "runtime_version": self.adapter.runtime_version,
            "precision": row["options"].get("precision"),
            "load_ms": (time.perf_counter_ns() - start) / 1e6,
            "peak_memory_bytes": None,
        }

    def guard(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call something of the adapter's; its exceptions become one line."""
        try:
            return work(*arguments)
        except Exception as error:
            what = f"model '{self.id}' on {self.record['runtime']} does not run"
            raise AgentError(kind_of(error, "runtime"), one_line(what, error)) from error

    def note_memory(self) -> None:
        """After the first inference: this process's peak over what it had before the runtime was even imported.

        Taken once, since memory-mapped inputs count too; meaningless, so unavailable, beside other models.
        """
        peak = memory("VmHWM")
        if self.alone and self.record["peak_memory_bytes"] is None and peak is not None and self.before is not None:
            self.record["peak_memory_bytes"] = peak - self.before


def run_task(task: dict[str, Any], models: dict[str, Loaded], folder: Path) -> dict[str, Any]:
    """All samples in chunks of the model's batch; the last is filled by repeating its last sample, and trimmed."""
    model = models[task["model"]]
    inputs, n = load_inputs(folder / task["inputs"])
    parts: dict[str, list[Any]] = {}
    for start in range(0, n, model.batch):
        for name, array in model.guard(model.adapter.run, take(inputs, start, model.batch, n)).items():
            if len(array) != model.batch:
                found = f"output '{name}' has {len(array)} rows for a batch of {model.batch}"
                raise AgentError("runtime", f"model '{model.id}' on {model.record['runtime']}: {found}")
            parts.setdefault(name, []).append(array[: n - start])
        model.note_memory()
    save_npz(folder / task["outputs"], {name: np.concatenate(arrays) for name, arrays in parts.items()})
    return {"do": "run", "model": model.id, "n": n, "batch": model.batch}


def time_task(task: dict[str, Any], models: dict[str, Loaded], folder: Path) -> dict[str, Any]:
    """Interleaved rounds: each runs every model once, in an order shuffled anew from `seed`, on the first samples.

    Stops at `budget_s` (counted from the first round) once `min_rounds` are done, and at `max_rounds`. The samples are
    int64 nanoseconds, one a round, in round order: entry i of each model lies within milliseconds of the others'.
    """
    chosen = [models[name] for name in task["models"]]
    handles = [bind(model, task, folder) for model in chosen]
    warmups = [m.guard(warm_up, m, handle, task["warmup_s"]) for m, handle in pairs(chosen, handles)]
    clock, shuffle = time.perf_counter_ns, random.Random(task["seed"]).shuffle
    invokes = [model.adapter.invoke for model in chosen]
    samples = [compact("q") for _ in chosen]  # 8 bytes each: a long run must not grow into the device's memory
    order = list(range(len(chosen)))
    conditions, energy = [observe(0.0, 0)], energy_j()
    began, rounds, INTERRUPT.armed = clock(), 0, True
    end = began + int(task["budget_s"] * 1e9)
    look = began + LOOK_NS
    while rounds < task["max_rounds"] and (rounds < task["min_rounds"] or clock() < end) and not INTERRUPT.wanted:
        shuffle(order)
        for i in order:
            invoke, handle = invokes[i], handles[i]
            start = clock()
            invoke(handle)
            samples[i].append(clock() - start)
        rounds += 1
        if clock() > look:
            elapsed_s = (clock() - began) / 1e9
            conditions.append(observe(elapsed_s, rounds))
            tell(elapsed_s, rounds, task, samples)
            look = clock() + LOOK_NS
    INTERRUPT.armed, elapsed_s = False, (clock() - began) / 1e9
    conditions.append(observe(elapsed_s, rounds))
    save_npz(folder / task["samples"], {m.id: np.array(s, np.int64) for m, s in pairs(chosen, samples)})
    return {
        "do": "time",
        "rounds": rounds,
        "elapsed_s": elapsed_s,
        "warmup": {m.id: note for m, note in pairs(chosen, warmups)},
        "conditions": conditions if len(conditions) <= MOST else conditions[:: len(conditions) // MOST + 1],
        "energy": energy_since(energy),
        "interrupted": INTERRUPT.wanted,
    }


def layers_task(task: dict[str, Any], models: dict[str, Loaded], folder: Path) -> dict[str, Any]:
    """Where the time of one inference goes: [{"op", "name", "type", "precision", "ms", "share"}] in the order of
    execution, the median of `runs` each (OpenVINO tells means alone). Being watched costs time itself: the shares are
    the figure. "layers" is null where the runtime does not tell; "unavailable" says why.
    """
    model = models[task["model"]]
    handle = bind(model, task, folder)
    model.guard(model.adapter.invoke, handle)
    tell_layers = getattr(model.adapter, "layers", lambda handle, runs: None)  # a runtime of one's own may have none
    found = model.guard(tell_layers, handle, task["runs"])
    result = {"do": "layers", "model": model.id, "layers": None, "unavailable": None}
    if found is None:
        return {
            **result,
            "unavailable": NO_LAYERS.get(model.record["runtime"], "its runtime tells no times of single ops"),
        }
    rows = [(op, name, kind, precision, float(np.median(ms))) for op, name, kind, precision, ms in found]
    whole = sum(row[4] for row in rows)
    if not whole:
        return {**result, "unavailable": "every layer takes less than the microsecond that its runtime counts in"}
    names = ("op", "name", "type", "precision", "ms", "share")
    return {**result, "layers": [dict(pairs(names, (*row, row[4] / whole))) for row in rows]}


NO_LAYERS = {"tflite": "TFLite's Python package tells no times of single ops (its benchmark_model does: see --runner)"}
# What a runtime calls an element type -> what a report calls it.
ELEMENTS = {
    "float": "f32", "float16": "f16", "f32": "f32", "f16": "f16", "bf16": "bf16",
    "i8": "int8", "u8": "int8", "int8": "int8", "uint8": "int8",
    "i32": "i32", "int32": "i32", "i64": "i64", "int64": "i64",
}  # fmt: skip


def bind(model: Loaded, task: dict[str, Any], folder: Path) -> Any:
    """A handle for the first samples of the task's inputs, or for drawn ones."""
    if task["inputs"] is None:
        return model.guard(model.adapter.prepare, model.guard(synthetic, model, task["seed"]))
    inputs, n = load_inputs(folder / task["inputs"])
    return model.guard(model.adapter.prepare, take(inputs, 0, model.batch, n))


def synthetic(model: Loaded, seed: int) -> Arrays:
    """Inputs for the model's own shapes: normally distributed floats, zeros of other types."""
    rng, drawn = np.random.default_rng(seed), {}
    for name, (shape, dtype) in model.adapter.specs().items():
        sizes = [model.batch, *shape[1:]]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"input '{name}' has no fixed shape: {list(shape)}")
        floating = np.dtype(dtype).kind == "f"
        drawn[name] = rng.standard_normal(sizes).astype(dtype) if floating else np.zeros(sizes, dtype)
    return drawn


LOOK_NS, MOST = 1_000_000_000, 1000  # conditions are looked at once a second, and so many are kept


def tell(elapsed_s: float, rounds: int, task: dict[str, Any], samples: Any) -> None:
    """A progress line: the running median is of the last 1,000 rounds, of the last model of the task."""
    least = min(rounds / max(task["min_rounds"], 1), elapsed_s / max(task["budget_s"], 1e-9))
    share = min(1.0, max(least, rounds / task["max_rounds"]))
    line = {
        "done": round(100 * share),
        "total": 100,
        "rounds": rounds,
        "median_ms": float(np.median(samples[-1][-1000:])) / 1e6,
        "left_s": elapsed_s * (1 - share) / share,
    }
    print("PROGRESS " + json.dumps(line), flush=True)


BLOCKS, STEADY = (2, 6), 0.05


def warm_up(model: Loaded, handle: Any, warmup_s: float) -> dict[str, Any]:
    """Infer in blocks of half of `warmup_s` (and 3 inferences at least) until two in a row have medians within 5 %.

    At least two blocks, so `warmup_s`; at most six, so about three times that: then "steady" is false.
    """
    clock, medians, count = time.perf_counter_ns, [], 0
    while True:
        block: list[int] = []
        end = clock() + int(warmup_s * 1e9 / BLOCKS[0])
        while len(block) < 3 or clock() < end:
            start = clock()
            model.adapter.invoke(handle)
            block.append(clock() - start)
        model.note_memory()
        medians.append(float(np.median(block)))
        count += len(block)
        steady = len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STEADY * medians[-1]
        if len(medians) >= BLOCKS[0] and (steady or len(medians) >= BLOCKS[1]):
            return {"inferences": count, "steady": steady}


def survey_task(task: dict[str, Any], models: dict[str, Loaded], folder: Path) -> dict[str, Any]:
    """Which runtimes this Python has: {"runtimes": {distribution: version or null}}."""
    return {"do": "survey", "runtimes": {name: installed(name) for name in DISTRIBUTIONS}}


DISTRIBUTIONS = ("numpy", "onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime")


def installed(distribution: str) -> Any:
    """Its version, or None. (`find_spec` alone would find a folder of that name.)"""
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


TASKS = {"run": run_task, "time": time_task, "layers": layers_task, "survey": survey_task}


def load_inputs(folder: Path) -> Any:
    """({name: memory-mapped array}, number of samples)."""
    try:
        inputs = {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
    except ValueError as error:
        raise AgentError("input", one_line(f"{folder} cannot be read", error)) from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise AgentError("input", f"{folder}: expected NAME.npy files with as many samples each, found {lengths}")
    return inputs, next(iter(lengths.values()))


def take(inputs: Arrays, start: int, batch: int, n: int) -> Arrays:
    """Samples start..start+batch; past the end the last one again."""
    rows = np.minimum(np.arange(start, start + batch), n - 1)
    return {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}


# ------------------------------------------------------------------------------------------------------------- facts


def device() -> dict[str, Any]:
    """What this machine says of itself; null is unavailable."""
    affinity = getattr(os, "sched_getaffinity", None)
    total = field("/proc/meminfo", "MemTotal")
    features = field("/proc/cpuinfo", "flags") or field("/proc/cpuinfo", "Features")
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": field("/proc/cpuinfo", "model name") or text("/proc/device-tree/model") or platform.processor() or None,
        "cores": os.cpu_count(),
        "memory_bytes": int(total.split()[0]) * 1024 if total else None,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "affinity": sorted(affinity(0)) if affinity else None,
        "governor": text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "os": field("/etc/os-release", "PRETTY_NAME", "="),
        "serial": text("/proc/device-tree/serial-number") or text("/etc/machine-id"),
        "cpu_features": hashlib.sha256(features.encode()).hexdigest()[:8] if features else None,
        "saturates": saturates(),
    }


def saturates() -> bool | None:
    """Does this CPU add pairs of 8-bit products in 16 bits, which full-range weights overflow? x86 without VNNI or AMX
    does; null where nothing says so.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    flags = (field("/proc/cpuinfo", "flags") or "").split()
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(flags) if flags else None


def observe(elapsed_s: float, rounds: int) -> dict[str, Any]:
    """The machine's state at one moment of a measurement; null is unavailable. Temperatures in degrees Celsius,
    `frequencies_khz` of the cores that this process may use, `preempted`: involuntary context switches so far."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    found = [text(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
    temperatures = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = text(f"{zone}/temp")
        if value and value.lstrip("-").isdigit():
            temperatures[f"{zone.name} {text(f'{zone}/type')}"] = int(value) / 1000
    load = text("/proc/loadavg")
    return {
        "elapsed_s": elapsed_s,
        "rounds": rounds,
        "frequencies_khz": [int(value) for value in found if value] or None,
        "governor": text(f"/sys/devices/system/cpu/cpu{cores[0] if cores else 0}/cpufreq/scaling_governor"),
        "temperatures_c": temperatures or None,
        "load_1m": float(load.split()[0]) if load else None,
        "preempted": preempted(),
        "affinity": cores or None,
    }


def preempted() -> Any:
    """How often another process took this one's core away, or None."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def energy_j() -> Any:
    """(source, joules so far): Intel's RAPL package counters, else a battery's charge; None without either.

    Of the whole machine, idle power included. The counters wrap: see `energy_since`.
    """
    packages = [text(f"{zone}/energy_uj") for zone in sorted(Path("/sys/class/powercap").glob("intel-rapl:?"))]
    if packages and all(packages):
        return "rapl", sum(int(value) for value in packages if value) / 1e6
    for supply in sorted(Path("/sys/class/power_supply").glob("*")):
        value = text(f"{supply}/energy_now")
        if value and text(f"{supply}/status") == "Discharging":
            return "battery", -int(value) * 0.0036  # microwatt-hours left
    return None


def energy_since(before: Any) -> Any:
    """{"source", "joules"} since `before`; None where unavailable, or where a counter wrapped."""
    after = energy_j()
    if before is None or after is None or before[0] != after[0] or after[1] < before[1]:
        return None
    return {"source": after[0], "joules": after[1] - before[1]}


def text(path: str) -> str | None:
    """A small file's text, or None."""
    try:
        return Path(path).read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def field(path: str, name: str, separator: str = ":") -> str | None:
    """The first `name : value` of a file, without quotes, or None."""
    for line in (text(path) or "").splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip().strip('"')
    return None


def memory(name: str) -> int | None:
    """VmRSS or VmHWM of this process in bytes."""
    value = field("/proc/self/status", name)
    return int(value.split()[0]) * 1024 if value else None


def sha256_model(path: Path) -> str:
    """One digest over a model's own files (those that share its stem), names and contents: as targets/base.py does."""
    digest = hashlib.sha256()
    own = (p for p in path.parent.iterdir() if p.stem == path.stem and p.name != "model.json" and p.is_file())
    for file in sorted(own):
        digest.update(file.name.encode() + b"\0")
        content = hashlib.sha256()
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                content.update(block)
        digest.update(content.digest())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------------- main


def kind_of(error: BaseException, missing: str = "missing") -> str:
    """The kind of an AgentError that a runtime's exception becomes."""
    words = f"{type(error).__name__} {error}".lower()
    if isinstance(error, ImportError):
        return missing
    return "memory" if any(sign in words for sign in MEMORY_SIGNS) else "runtime"


MEMORY_SIGNS = ("memoryerror", "bad_alloc", "cannot allocate memory", "out of memory", "failed to allocate memory")


def one_line(what: str, error: BaseException) -> str:
    """`what` with the error's own words on one line."""
    return f"{what}: {' '.join(str(error).split()) or type(error).__name__}"


def save_npz(path: Path, arrays: Arrays) -> None:
    """Like np.savez, with any name allowed and equal arrays giving equal bytes; written aside, then renamed."""
    aside = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(aside, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    WRITTEN[path.name] = file_sha256(aside)
    aside.replace(path)


WRITTEN: dict[str, str] = {}  # what this request wrote: file name -> sha256


def file_sha256(path: Path) -> str:
    """Digest of one file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def execute(request: dict[str, Any], folder: Path, result: dict[str, Any]) -> None:
    """Load all models, then do all tasks; `result` is filled as far as it goes. Raises AgentError."""
    if request.get("protocol") != PROTOCOL:
        raise AgentError("protocol", f"request has protocol {request.get('protocol')}, this agent speaks {PROTOCOL}")
    if "numpy" not in sys.modules and request["models"]:
        raise AgentError("missing", f"Python {platform.python_version()} at {sys.executable} has no NumPy")
    models: dict[str, Loaded] = {}
    try:
        for row in request["models"]:
            models[row["id"]] = Loaded(row, folder, alone=len(request["models"]) == 1)
            result["models"][row["id"]] = models[row["id"]].record
        for task in request["tasks"]:
            if task["do"] not in TASKS:
                raise AgentError("protocol", f"unknown task '{task['do']}': known are {sorted(TASKS)}")
            for name in [task["model"]] if "model" in task else task.get("models", []):
                if name not in models:
                    raise AgentError("protocol", f"a task names the model '{name}', loaded are {sorted(models)}")
            result["tasks"].append(TASKS[task["do"]](task, models, folder))
            if INTERRUPT.wanted:
                break
    except KeyError as error:
        raise AgentError("protocol", f"the request lacks {error}") from error
    finally:
        for model in models.values():
            model.adapter.close()


def main(argument: str) -> int:
    """Read the request, do it, write the result."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, interrupt)
    end_with_stdin()
    path = Path(argument).resolve()
    result: dict[str, Any] = {"protocol": PROTOCOL, "device": device(), "models": {}, "tasks": [], "error": None}
    result["files"] = WRITTEN
    target = path.parent / "result.json"
    try:
        try:
            request = json.loads(path.read_text())
            target = path.parent / request["result"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AgentError("protocol", one_line(f"{path} is no request", error)) from error
        with wait_for(path.parent / request["lock"] if "lock" in request else None):
            execute(request, path.parent, result)
    except AgentError as error:
        result["error"] = {"kind": error.kind, "message": str(error)}
    except MemoryError as error:
        result["error"] = {"kind": "memory", "message": one_line("the agent", error)}
    except OSError as error:  # disk full, not writable
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "input"
        result["error"] = {"kind": kind, "message": one_line(f"files of {path}", error)}
    body = (json.dumps(result, indent=1, sort_keys=True) + "\n").encode()
    aside = target.with_name(target.name + ".tmp")
    with aside.open("wb") as stream:
        stream.write(body)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(target)
    print("DONE", hashlib.sha256(body).hexdigest(), flush=True)
    return 0 if result["error"] is None else 1


@contextlib.contextmanager
def wait_for(lock: Path | None) -> Any:
    """Hold `lock`, as long as this process lives and no longer: nothing is left behind by one that was killed."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print('PROGRESS {"waiting": true}', flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Interrupt:
    """Ctrl-C on the host: `wanted` ends the rounds of a timing task that has `armed` it."""

    armed = wanted = False


INTERRUPT = Interrupt()


def interrupt(number: int, frame: Any) -> None:
    """Keep what is measured, or end like `stop` where nothing is."""
    if INTERRUPT.wanted:  # a `timeout` above hands on what it was sent itself: one wish, two signals
        return
    if not INTERRUPT.armed:
        stop(number, frame)
    INTERRUPT.wanted = True


def stop(number: int, frame: Any) -> NoReturn:
    """Leave through every `finally`, as a shell would say it: 128 + signal."""
    raise SystemExit(128 + number)


def end_with_stdin() -> None:
    """End when the host goes away: a pipe's end is its sign. A terminal, a file or /dev/null says nothing."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: agent.py REQUEST.json")
    own = Path(__file__).resolve().parent  # may hold files that are named like the runtimes
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != own]
    sys.exit(main(sys.argv[1]))
