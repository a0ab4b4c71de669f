"""Silence for libraries that talk: absl, MLIR and TFLite write to the descriptors, Python packages to the streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop everything that is written to stdout and stderr, and warnings, inside. For the whole process: one thread."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with tempfile.TemporaryFile() as sink, contextlib.ExitStack() as restore:
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            restore.callback(os.close, saved)
            restore.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
        restore.enter_context(contextlib.redirect_stdout(io.StringIO()))
        restore.enter_context(contextlib.redirect_stderr(io.StringIO()))
        restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
