"""Sparse and clustered weights in few bytes: each tensor in its smallest format, back bit for bit.

"Zero" is a matter of bits, so that -0.0 and NaN survive. Formats know nothing of each other; a tensor is written in all
of them, with and without zstd, and the smallest stays. None of this makes a model faster: a runtime unpacks to dense.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

Array = npt.NDArray[Any]
Parts = list[Array]  # one-dimensional arrays of unsigned integers

MAGIC = b"edgew1\n"
DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "float64", "bool")
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
ZSTD_LEVEL = 19
PLAIN, TOGETHER, APART = range(3)  # how the parts of a tensor lie in its bytes: as they are, in one frame, in several
RUN = 255  # the longest run in one byte; it says that the run goes on


@dataclass(frozen=True)
class Format:
    """`encode`: a matrix of unsigned integers to parts, None where it cannot; `decode`: parts and shape to it."""

    encode: Callable[[Array], Parts | None]
    decode: Callable[[Parts, tuple[int, int], npt.DTypeLike], Array]


def _dense(matrix: Array) -> Parts:
    return [matrix.ravel()]


def _from_dense(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
    return parts[0].reshape(shape)


def _compressed(kind: str) -> Format:
    """CSR or CSC, by scipy; indices as narrow as they can be."""

    def encode(matrix: Array) -> Parts:
        import scipy.sparse

        sparse = getattr(scipy.sparse, f"{kind}_array")(matrix)
        return [sparse.data, _narrow(sparse.indices), _narrow(sparse.indptr)]

    def decode(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
        import scipy.sparse

        data, indices, pointers = parts
        indexed = (data, indices.astype(np.int64), pointers.astype(np.int64))
        return np.asarray(getattr(scipy.sparse, f"{kind}_array")(indexed, shape=shape).toarray())

    return Format(encode, decode)


def _coo(matrix: Array) -> Parts:
    import scipy.sparse

    sparse = scipy.sparse.coo_array(matrix)
    return [sparse.data, _narrow(sparse.row), _narrow(sparse.col)]


def _from_coo(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
    import scipy.sparse

    data, rows, columns = parts
    places = (rows.astype(np.int64), columns.astype(np.int64))
    return np.asarray(scipy.sparse.coo_array((data, places), shape=shape).toarray())


def _bitmap(matrix: Array) -> Parts:
    flat = matrix.ravel()
    return [np.packbits(flat != 0), flat[flat != 0]]


def _from_bitmap(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
    flat = np.zeros(math.prod(shape), dtype)
    flat[np.unpackbits(parts[0], count=flat.size).astype(bool)] = parts[1]
    return flat.reshape(shape)


def _runs(matrix: Array) -> Parts:
    """Zeros before each value, a byte each; 255 stands for 255 zeros and goes on."""
    flat = matrix.ravel()
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    whole = gaps // RUN
    lengths = np.full(len(gaps) + int(whole.sum()), RUN, np.uint8)
    lengths[np.cumsum(whole + 1) - 1] = gaps % RUN
    return [lengths, flat[places]]


def _from_runs(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
    lengths, values = parts
    flat = np.zeros(math.prod(shape), dtype)
    ends = lengths != RUN
    flat[(np.cumsum(lengths.astype(np.int64)) + np.cumsum(ends) - 1)[ends]] = values
    return flat.reshape(shape)


def _codebook(matrix: Array) -> Parts | None:
    """Distinct values and packed indices to them; for up to 256."""
    table, index = np.unique(matrix.ravel(), return_inverse=True)
    if len(table) > 256:
        return None
    bits = _bits(len(table))
    packed = np.unpackbits(index.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    return [table, np.packbits(packed)]


def _from_codebook(parts: Parts, shape: tuple[int, int], dtype: npt.DTypeLike) -> Array:
    table, packed = parts
    count, bits = math.prod(shape), _bits(len(table))
    index = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    whole = np.zeros((count, 8), np.uint8)
    whole[:, 8 - bits :] = index
    return np.asarray(table[np.packbits(whole, axis=1)[:, 0]].reshape(shape))


FORMATS: dict[str, Format] = {
    "dense": Format(_dense, _from_dense),
    "csr": _compressed("csr"),
    "csc": _compressed("csc"),
    "coo": Format(_coo, _from_coo),
    "bitmap": Format(_bitmap, _from_bitmap),
    "runs": Format(_runs, _from_runs),
    "codebook": Format(_codebook, _from_codebook),
}


def encode(array: Array, name: str, zstd: bool) -> bytes | None:
    """One tensor as self-contained bytes; None where the format cannot hold it. Raises UsageError for its dtype."""
    if array.dtype.name not in DTYPES:
        raise UsageError(f"storage: no format for tensors of {array.dtype}: there is one for {', '.join(DTYPES)}")
    rows = array.shape[0] if array.ndim > 1 else 1
    bits = np.ascontiguousarray(array).view(_UNSIGNED[array.itemsize])
    parts = FORMATS[name].encode(bits.reshape(rows, -1) if array.size else bits.reshape(1, 0))
    if parts is None:
        return None
    packing, body = _squeezed(parts) if zstd else (PLAIN, _joined(parts))
    kind = [list(FORMATS).index(name), packing, DTYPES.index(array.dtype.name), array.ndim]
    return struct.pack(f"<4B{array.ndim}I", *kind, *array.shape) + body


def _joined(parts: Parts) -> bytes:
    return b"".join(struct.pack("<BI", part.itemsize, part.size) + part.tobytes() for part in parts)


def _squeezed(parts: Parts) -> tuple[int, bytes]:
    """All parts in one zstd frame, or each in its own, where places and values have codes of their own."""
    import zstandard

    compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress
    frames = [compress(_joined([part])) for part in parts]
    apart = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
    return min(((TOGETHER, compress(_joined(parts))), (APART, apart)), key=lambda one: len(one[1]))


def _unsqueezed(body: bytes, packing: int) -> bytes:
    import zstandard

    decompress = zstandard.ZstdDecompressor().decompress
    if packing == TOGETHER:
        return decompress(body)
    found, at = b"", 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        found += decompress(body[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def decode(data: bytes) -> Array:
    """The tensor in what `encode` wrote. Raises UsageError when the bytes are damaged."""
    try:
        kind, packing, dtype, ndim = struct.unpack_from("<4B", data)
        shape = struct.unpack_from(f"<{ndim}I", data, 4)
        body = data[4 + 4 * ndim :]
        if packing != PLAIN:
            body = _unsqueezed(body, packing)
        parts, at = [], 0
        while at < len(body):
            size, count = struct.unpack_from("<BI", body, at)
            parts.append(np.frombuffer(body, _UNSIGNED[size], count, at + 5))
            at += 5 + size * count
        named = np.dtype(DTYPES[dtype])
        matrix = (shape[0] if ndim > 1 else 1, -1)
        flat = (matrix[0], math.prod(shape) // matrix[0]) if math.prod(shape) else (1, 0)
        found = list(FORMATS.values())[kind].decode(parts, flat, _UNSIGNED[named.itemsize])
        return np.ascontiguousarray(found).view(named).reshape(shape)
    except Exception as error:
        raise UsageError(f"storage: the bytes are damaged ({type(error).__name__}): write the file again") from error


@dataclass(frozen=True)
class Row:
    """One tensor: `bytes_by` holds every format ("csr", "csr+zstd", ...) that can hold it; `best` is the smallest."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: float
    dense_bytes: int
    bound_bytes: float
    bytes_by: dict[str, int]
    best: str


def measure(name: str, array: Array) -> tuple[Row, bytes]:
    """All formats of one tensor, and the bytes of the smallest."""
    found = {}
    for kind in FORMATS:
        for zstd in (False, True):
            if (data := encode(array, kind, zstd)) is not None:
                found[f"{kind}+zstd" if zstd else kind] = data
    best = min(found, key=lambda kind: len(found[kind]))
    zeros = float(np.mean(array == 0)) if array.size else 0.0
    sizes = {kind: len(data) for kind, data in found.items()}
    return Row(name, array.shape, array.dtype.name, zeros, array.nbytes, bound(array), sizes, best), found[best]


def bound(array: Array) -> float:
    """Bytes by entropy, for a coder that knows no order: where the zeros are, then the values.

    Values of one byte by their histogram. Wider ones by the cheaper of two: histogram with its table of values, or
    histogram of sign and exponent with the mantissas as they are (those of trained weights are noise).
    """
    bits = np.ascontiguousarray(array).view(_UNSIGNED[array.itemsize]).ravel()
    values = bits[bits != 0]
    distinct, counts = np.unique(values, return_counts=True)
    size = values.size * _entropy(counts)
    if array.itemsize > 1:
        mantissa = int(np.finfo(array.dtype).nmant) if array.dtype.kind == "f" else 0
        heads = np.unique(values >> mantissa, return_counts=True)[1] if mantissa else counts
        plain = values.size * (_entropy(heads) + mantissa) if mantissa else values.size * 8.0 * array.itemsize
        size = min(size + distinct.size * 8 * array.itemsize, plain)
    places = _entropy(np.array([bits.size - values.size, values.size]))
    return float(bits.size * places + size) / 8


def pack(tensors: Mapping[str, Array]) -> bytes:
    """A whole model in one file: magic, a JSON table of contents, each tensor in its smallest format."""
    blobs = {name: measure(name, array)[1] for name, array in tensors.items()}
    contents = json.dumps({name: len(data) for name, data in blobs.items()}, separators=(",", ":")).encode()
    return MAGIC + struct.pack("<I", len(contents)) + contents + b"".join(blobs.values())


def unpack(data: bytes, where: str) -> dict[str, Array]:
    """What `pack` wrote. Raises UsageError when it is not that or damaged."""
    if not data.startswith(MAGIC):
        raise UsageError(f"{where} is not a file of packed weights: 'deploy storage MODEL --out FILE' writes one")
    try:
        (length,) = struct.unpack_from("<I", data, len(MAGIC))
        at = len(MAGIC) + 4 + length
        contents = json.loads(data[at - length : at])
        found = {}
        for name, size in contents.items():
            found[name] = decode(data[at : at + size])
            at += size
    except (ValueError, struct.error, UsageError) as error:
        raise UsageError(f"{where} is damaged: write it again with 'deploy storage MODEL --out FILE'") from error
    if at != len(data):
        raise UsageError(f"{where} is damaged ({len(data)} bytes, {at} expected): write it again")
    return found


def _narrow(index: Array) -> Array:
    return index.astype(np.min_scalar_type(int(index.max(initial=0))))


def _bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


def _entropy(counts: Array) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum())
