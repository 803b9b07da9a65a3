"""Weights in fewer bytes than they take in memory, without loss: codebook and Huffman-coded codes.

A float32 weight of at most 256 different values (`passes.codebook`) is stored as these values and one
code for each number, 8-bit and packed 4-bit weights as their bytes. The codes are a raw DEFLATE stream
(RFC 1951) of Huffman codes alone: on weights of MiniLM it took what the entropy of single codes
allows, less than LZMA or full DEFLATE, and is read at 200 MB/s. Nothing is executed when it is read,
and no more memory is taken than the stored bytes can stand for.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.manifest import BundleError

Arrays = dict[str, NDArray[np.generic]]

CODES, VALUES = "#codes", "#values"
"""Suffixes of the arrays that stand for a coded weight."""

MOST = 256
"""Values of a codebook."""

_BYTES = ("int8", "uint8", "uint32")
_SMALLEST = 1 << 10  # numbers for which a codebook, bytes for which a stream may gain
_GAIN = 0.97
_SAMPLE = 1 << 12
_RAW = -zlib.MAX_WBITS
_AXES = 16


def encode(weights: Mapping[str, NDArray[np.generic]]) -> tuple[Arrays, dict[str, Any]]:
    """The arrays to store for the weights, and for those that are coded their dtypes and shapes."""
    arrays: Arrays = {}
    coded: dict[str, Any] = {}
    for name, weight in weights.items():
        parts = None
        if weight.nbytes >= _SMALLEST and not {name + CODES, name + VALUES} & set(weights):
            parts = _parts(np.asarray(weight, order="C"))
        if parts is None or _size(parts) > _GAIN * weight.nbytes:
            arrays[name] = np.asarray(weight, order="C")  # 0-d stays 0-d
        else:
            arrays |= {name + suffix: part for suffix, part in parts.items()}
            coded[name] = {"dtype": str(weight.dtype), "shape": list(weight.shape)}
    return arrays, coded


def decode(arrays: Mapping[str, NDArray[np.generic]], name: str, entry: Any) -> NDArray[np.generic]:
    """A weight again.

    Args:
        arrays: what is stored.
        name: of the weight.
        entry: what ``encode`` said of it.

    Raises:
        BundleError: the arrays are not what the entry says.
    """
    dtype, shape = _checked(name, entry)
    stream = _stored(arrays, name + CODES, "uint8", 1)
    if dtype != "float32":
        count = prod(shape) * np.dtype(dtype).itemsize
        return _inflated(stream, count, name).view(dtype).reshape(shape)
    values = _stored(arrays, name + VALUES, "float32", 2)
    codes = _inflated(stream, prod(shape), name)
    books, size = values.shape
    highest = int(codes.max(initial=0))
    if books not in (1, shape[0] if shape else 1) or highest >= size:
        raise _wrong(name, f"{books} codebooks of {size} values for codes up to {highest}")
    weight = np.empty(shape, np.float32)
    pairs = zip(values, codes.reshape(books, -1), weight.reshape(books, -1), strict=True)
    for own, part, place in pairs:
        np.take(own, part, out=place)
    return weight


def _parts(weight: NDArray[np.generic]) -> Arrays | None:
    """The arrays that stand for a weight, whether that gains or not; None if there are none."""
    if str(weight.dtype) in _BYTES:
        return {CODES: _deflated(weight.reshape(-1).view(np.uint8))}
    if str(weight.dtype) != "float32" or weight.ndim == 0:
        return None
    bits = weight.reshape(-1).view(np.uint32)  # compared as bits: -0.0 and NaN stay what they are
    found: list[Arrays] = []
    for rows in (bits.reshape(1, -1), bits.reshape(weight.shape[0], -1)):
        books = _codebooks(rows) if rows.shape[1] >= _SMALLEST else None
        if books is not None:
            values, codes = books
            found.append({VALUES: values.view(np.float32), CODES: _deflated(codes)})
    return min(found, key=_size, default=None)


def _size(parts: Arrays) -> int:
    return sum(p.nbytes for p in parts.values())


def _codebooks(
    rows: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]] | None:
    """A codebook for each row, all of one length, and the codes; None if a row has too many values."""
    values = []
    for row in rows:
        own = _distinct(row)
        if own is None:
            return None
        values.append(own)
    length = max(map(len, values))
    books = np.stack([np.pad(own, (0, length - len(own)), mode="edge") for own in values])
    pairs = zip(values, rows, strict=True)
    return books, np.concatenate([np.searchsorted(own, row) for own, row in pairs]).astype(np.uint8)


def _distinct(row: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
    """The distinct values, ascending, or None if there are more than fit a codebook."""
    found = np.unique(row[:: max(1, len(row) // _SAMPLE)])
    if len(found) > MOST:
        return None
    place = np.minimum(np.searchsorted(found, row), len(found) - 1)
    rest = row[found[place] != row]
    if len(rest):
        found = np.union1d(found, rest)
    return found if len(found) <= MOST else None


def _deflated(codes: NDArray[np.uint8]) -> NDArray[np.generic]:
    coder = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(coder.compress(codes.data) + coder.flush(), np.uint8)


def _inflated(stream: NDArray[np.generic], count: int, name: str) -> NDArray[np.uint8]:
    """Exactly ``count`` codes: a code takes at least a bit, so a stream bounds what may be claimed."""
    if count > 8 * stream.size:
        raise _wrong(name, f"{count} codes in {stream.size} bytes")
    decoder = zlib.decompressobj(_RAW)
    try:
        codes = decoder.decompress(stream.data, count + 1)
    except zlib.error as error:
        raise _wrong(name, str(error)) from error
    if len(codes) != count or not decoder.eof or decoder.unused_data:
        raise _wrong(name, f"a stream of {len(codes)} codes or more, not {count}")
    return np.frombuffer(codes, np.uint8)


def _checked(name: str, entry: Any) -> tuple[str, tuple[int, ...]]:
    """dtype and shape that an entry gives."""
    fields: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    known = isinstance(dtype, str) and dtype in (*_BYTES, "float32")
    sizes = shape if isinstance(shape, list) and len(shape) <= _AXES else [0]
    if not known or not all(type(d) is int and d > 0 for d in sizes):
        raise _wrong(name, f"dtype {dtype!r}, shape {shape!r}")
    return str(dtype), tuple(sizes)


def _stored(
    arrays: Mapping[str, NDArray[np.generic]], name: str, dtype: str, rank: int
) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or str(array.dtype) != dtype or array.ndim != rank or not array.size:
        raise _wrong(name, "nothing" if array is None else f"{array.dtype}{list(array.shape)}")
    return array


def _wrong(name: str, got: str) -> BundleError:
    return BundleError(
        "a coded weight of the bundle is not what its manifest says",
        got=f"{name}: {got}",
        allowed="the shape, codes and values that were written",
        next="copy the bundle again or compile it anew",
    )
