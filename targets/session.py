"""A model opened in this process through the agent's own adapters: what is measured is what is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from targets import agent
from targets.base import Batch, Model, Session, TargetError, to_model_layout, to_program_layout

Tap = Callable[[Batch, Sequence[str]], Batch]  # inputs in the model's layout -> the named tensors


class AdapterSession:
    """A `targets.base.Session` (and its own context manager) over an adapter; `tap` is opened when first used."""

    def __init__(self, model: Model, runtime: str, options: dict[str, Any], tap: Callable[[], Tap]) -> None:
        self._model, self._open_tap = model, tap
        self._tap: Tap | None = None
        try:
            self._adapter = agent.open_model(runtime, str(model.path), options)
        except Exception as error:
            raise TargetError(agent.one_line(f"{model.path} does not load in {runtime}", error)) from error

    def run(self, batch: Batch) -> Batch:
        """All outputs for a batch, in the program's layout. Raises ValueError on a wrong name, shape or dtype."""
        outputs = self._adapter.run(to_model_layout(batch, self._model.inputs))
        return to_program_layout(outputs, self._model.outputs)

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The named activations of a float graph, in the graph's layout. Raises ValueError for an unknown name."""
        unknown = sorted(set(names) - set(self._model.tensors))
        if unknown:
            raise ValueError(f"no activation {unknown[:3]} in {self._model.path.name}: see Model.tensors")
        if self._tap is None:
            self._tap = self._open_tap()
        return self._tap(to_model_layout(batch, self._model.inputs), names)

    def __enter__(self) -> AdapterSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._adapter.close()
        self._tap = None


def tap_ahead(session: Session, batches: Iterable[Batch], names: Sequence[str]) -> Iterator[Batch]:
    """What `session.tap` gives for each batch, one batch ahead in a thread: while a caller counts, the runtime runs.

    An error of the session is raised where its batch would have come.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = None
        for batch in batches:
            coming = pool.submit(session.tap, batch, names)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
