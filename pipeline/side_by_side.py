"""Measurements on several devices: at the same time where each computes on its own, else one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, TypeVar

from pipeline import worker
from pipeline.runner import Runner

T = TypeVar("T")
OF_THIS_MACHINE = ("local://", "qemu://")  # what computes here would disturb what is timed here


def measure(devices: Sequence[str], work: Callable[[str, Runner], T], runner: Runner) -> list[T]:
    """`work(uri, runner)` of each device, in their order. Those of this machine come first, one by one; the others each
    have a thread, and their stages a process: a Ctrl-C ends these, and so what runs on the devices.

    Raises the first error, when no device works any more. Progress is that of the first of those at the same time.
    """
    apart = [uri for uri in devices if not uri.startswith(OF_THIS_MACHINE)]
    if len(apart) < 2:
        return [work(uri, runner) for uri in devices]
    done = {uri: work(uri, runner) for uri in devices if uri not in apart}
    said = threading.Lock()

    def of_one(uri: str) -> Runner:
        def emit(event: Mapping[str, Any]) -> None:
            if event["event"] != "progress" or uri == apart[0]:
                with said:
                    runner.emit(event)

        return replace(runner, apart=True, emit=emit, rows=[], stage_seconds=0.0)

    runners = [of_one(uri) for uri in apart]
    with ThreadPoolExecutor(len(apart)) as pool:
        futures = [pool.submit(work, uri, own) for uri, own in zip(apart, runners, strict=True)]
        _until_done(futures)
    for own in runners:
        runner.rows += own.rows
    runner.stage_seconds += max(own.stage_seconds for own in runners)
    done |= {uri: future.result() for uri, future in zip(apart, futures, strict=True)}
    return [done[uri] for uri in devices]


def _until_done(futures: Sequence[Future[T]]) -> None:
    try:
        wait(futures)
    except BaseException:
        while wait(futures, timeout=0.2).not_done:  # a thread may be about to start another
            worker.end_all()
        raise
