"""Folds stages over artifacts: a key for each, the store asked first, events for whoever listens."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline import bounds, helpers, source
from pipeline.artifact import Artifact, canonical_json, sha256_file, sha256_json
from pipeline.errors import DeviceError, UsageError
from pipeline.locks import Holder
from pipeline.stages import Emit, Job, silent
from pipeline.stages.table import STAGES, StageInfo
from pipeline.store import Store
from pipeline.worker import invoke, run_isolated

OURS = Path(__file__).resolve().parent.parent
OUR_PACKAGES = ("pipeline", "targets", "calibration")
PRUNINGS = ("prune", "prune-measured")  # their rows say what went
PRUNED = ("layers", "kept", "stop", "faster")


@dataclass
class Runner:
    """One run. `rows` is its history, in order; the stages in `refresh` are made again even if they are stored.

    `stored_only`: every other stage must be in the store already (a finished run is being looked at again).
    `apart`: every stage has a process of its own.
    """

    store: Store
    folder: Path
    factories: Mapping[str, str]  # "model", "data" and what the task names -> module:function
    cache_key: str
    seed: int
    emit: Emit = silent
    refresh: frozenset[str] = frozenset()
    stored_only: bool = False
    apart: bool = False
    recipe: str = ""  # its name, for people
    known: dict[str, str] = field(default_factory=dict)  # of the user's model, once the data is there: joins Job.user
    rows: list[dict[str, Any]] = field(default_factory=list)
    stage_seconds: float = 0.0
    waited_for: set[int] = field(default_factory=set)  # processes whose work this run has waited for

    def waits(self, holder: Holder | None) -> None:
        """Say for whom this run waits, once for each."""
        if holder is not None and holder.pid not in self.waited_for:
            self.waited_for.add(holder.pid)
            self.emit({"event": "waiting", "message": f"waiting for {holder}", **asdict(holder)})

    def do(
        self,
        stage: str,
        inputs: Mapping[str, Artifact],
        settings: Mapping[str, Any],
        *,
        branches: tuple[str, ...],
        label: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """The stage's artifact, from the store or made now. `extra` joins the key only (file digests and such)."""
        info = STAGES[stage]
        key = self.key(stage, inputs, settings, extra or {})
        title = f"{stage} {label}".strip()
        event = {"name": title, "stage": stage, "branches": list(branches)}
        with self.store.lock(key, f"{self.recipe}: {title}", self.waits):
            artifact = None if stage in self.refresh else self.store.get(key)
            if artifact is not None and artifact.metadata.get("failed") and not self.stored_only:
                artifact = None  # what did not run then may run now: memory, time and a device's state are in no key
            cached = artifact is not None
            if artifact is None:
                if self.stored_only and stage not in self.refresh:
                    raise UsageError(
                        f"the result of stage '{title}' is not in the store {self.store.root} any more, or the recipe, "
                        "its code or the tools changed since this run: run 'deploy --target ...' again"
                    )
                self.emit({"event": "start", **event})
                scratch = self.store.scratch(key)
                if stage in self.refresh:
                    shutil.rmtree(scratch, ignore_errors=True)
                artifact = self.store.put(
                    stage,
                    key,
                    lambda out: self._make(info, stage, inputs, settings, out, scratch),
                    {"recipe": self.recipe, "title": title},
                )
                self.stage_seconds += artifact.seconds
        row = {
            "name": title,
            "branches": list(branches),
            "key": key,
            "seconds": artifact.seconds,
            "cached": cached,
            **{name: artifact.metadata.get(name) for name in ("metric", "params", "macs")},
        }
        cut = {name: artifact.metadata[name] for name in PRUNED if name in artifact.metadata}
        self.rows.append(row | ({"pruning": cut} if stage in PRUNINGS else {}))
        task = settings.get("task") or {}
        self.emit({"event": "done", **event, **row, "task": dict(task), "metadata": dict(artifact.metadata)})
        return artifact

    @property
    def ran(self) -> set[str]:
        """The stages whose results this run has, made now or stored."""
        return {row["name"].split(" ")[0] for row in self.rows}

    def key(
        self, stage: str, inputs: Mapping[str, Artifact], settings: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> str:
        """Hash of all that the stage's result depends on. What it holds is what invalidates a result."""
        info = STAGES[stage]
        packages = [*info.packages]
        code = [code_digest(info.function.partition(":")[0])]
        if "target" in settings:
            packages += target_packages(settings["target"])
            code += target_code(settings["target"])
        attached = settings.get("device")
        record: dict[str, Any] = {
            "stage": stage,
            "settings": {name: value for name, value in settings.items() if name != "device"},
            "inputs": {role: artifact.digest for role, artifact in inputs.items()},
            "seed": self.seed,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in packages},
            "code": code,
            "extra": extra,
        }
        if info.user:
            record["user"] = {
                role: [self.factories[role], self._digest(role)] for role in info.user if role in self.factories
            }
            record["cache_key"] = self.cache_key
        if info.device:
            record["device"] = attached_device(attached) if attached else device()
        return sha256_json(record)

    def _digest(self, role: str) -> Any:
        """Of the code that a role's function can reach, or of the files that it names."""
        module, colon, _ = self.factories[role].partition(":")
        if colon:
            return source.digest(module, self._roots(role))
        return source.digest_path(self.folder / module, self.folder)

    def _roots(self, role: str) -> list[Path]:
        """The recipe's folder, and for an installed package the folder that holds it."""
        top = self.factories[role].partition(":")[0].partition(".")[0]
        roots = [self.folder]
        if source.locate(top, roots) is None:
            with contextlib.suppress(ImportError, ValueError):
                roots += filter(None, [_root(top)])
        return roots

    def _make(
        self,
        info: StageInfo,
        stage: str,
        inputs: Mapping[str, Artifact],
        settings: Mapping[str, Any],
        out: Path,
        scratch: Path,
    ) -> dict[str, Any]:
        job = Job(
            stage=stage,
            settings=settings,
            inputs={role: artifact.path for role, artifact in inputs.items()},
            out=out,
            seed=self.seed,
            user={**self.factories, **self.known, "folder": str(self.folder)} if info.user else {},
            emit=self.emit,
            scratch=scratch,
        )
        if info.isolated or self.apart:
            limits = bounds.of_model(self.folder / settings["model"]) if info.foreign else None
            metadata = run_isolated(info.function, job, limits)
        else:
            with contextlib.redirect_stdout(sys.stderr):  # the user's own prints must not break --json
                metadata = helpers.lead(info.function, job) if info.trains else invoke(info.function, job)
        canonical_json(metadata)  # NaN or a non-JSON value is a bug of the stage: say so here, not in a later run
        return metadata


@cache
def version(distribution: str) -> str:
    """Installed version of a distribution, or "missing"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


@cache
def code_digest(module: str) -> str:
    """Digest of the code of ours (or of a target's own package) that a module can reach; of ours, its meaning."""
    top = module.partition(".")[0]
    if top in OUR_PACKAGES:
        return source.digest(module, [OURS], OUR_PACKAGES, meaning=True)
    root = _root(top)
    return "missing" if root is None else source.digest(module, [root], (top,))


def _root(package: str) -> Path | None:
    """The folder in which a package or module lies; None where there is none of that name."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    return file.parent.parent if file.name == "__init__.py" else file.parent


@cache
def target_code(name: str) -> tuple[str, ...]:
    """Digests of a target's code: its own module, and the adapter that the agent opens by its path."""
    from targets import registry

    module = registry.entry(name).value.partition(":")[0]  # not imported for its name
    adapter, root = Path(registry.load(name).runtime), _root(module.partition(".")[0])
    if adapter.suffix != ".py" or not adapter.is_file():  # one of the agent's own, by name
        return (code_digest(module),)
    if root is None or not adapter.is_relative_to(root):
        return code_digest(module), sha256_file(adapter)
    return code_digest(module), code_digest(".".join(adapter.relative_to(root).with_suffix("").parts))


@cache
def device() -> dict[str, str]:
    """What this machine is, as far as it changes a measured result."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
        name += " " + sha256_json(next((line for line in lines if line.startswith("flags")), ""))[:8]
    return {"system": platform.system(), "machine": platform.machine(), "cpu": name}


@cache
def attached_device(uri: str) -> dict[str, Any]:
    """What a device says of itself, asked once: its results hold for it, whatever the way to it. Raises DeviceError."""
    from targets.channels import ChannelError, open_device

    try:
        return dict(open_device(uri).identity())
    except ChannelError as error:
        raise DeviceError(str(error)) from error


def target_device(name: str) -> str | None:
    """Where a target runs when no device is named, a URI; None is this machine. A target may say so in `device`."""
    from targets import registry

    return getattr(registry.load(name), "device", None)


@cache
def target_packages(name: str) -> tuple[str, ...]:
    """Distributions that change a target's results."""
    from targets import registry

    return registry.load(name).packages
