"""The datatypes of the Open Inference Protocol v2, and how each is kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Kind = Literal["float", "int", "bool", "bytes"]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype: ``dtype`` is how numpy holds it, in the byte order of the wire (little)."""

    name: str
    kind: Kind
    dtype: np.dtype[np.generic]
    size: int
    """Bytes per element; 0 for BYTES, whose elements carry their own length."""


def _number(name: str, kind: Kind, code: str) -> Datatype:
    dtype = np.dtype(code)
    return Datatype(name, kind, dtype, dtype.itemsize)


DATATYPES: Final[dict[str, Datatype]] = {
    datatype.name: datatype
    for datatype in (
        _number("BOOL", "bool", "?"),
        _number("UINT8", "int", "<u1"),
        _number("UINT16", "int", "<u2"),
        _number("UINT32", "int", "<u4"),
        _number("UINT64", "int", "<u8"),
        _number("INT8", "int", "<i1"),
        _number("INT16", "int", "<i2"),
        _number("INT32", "int", "<i4"),
        _number("INT64", "int", "<i8"),
        _number("FP16", "float", "<f2"),
        _number("FP32", "float", "<f4"),
        _number("FP64", "float", "<f8"),
        # numpy has no bfloat16: its 16 bits are kept as they are, and torch views them as what they are.
        Datatype("BF16", "float", np.dtype("<u2"), 2),
        Datatype("BYTES", "bytes", np.dtype(object), 0),
    )
}


def named(text: str) -> Datatype:
    """The datatype called ``text``: ``FP32``, or as Triton's configurations write it, ``TYPE_FP32``.

    Raises ValueError, which lists what there is.
    """
    name = text.removeprefix("TYPE_")
    datatype = DATATYPES.get("BYTES" if name == "STRING" else name)
    if datatype is None:
        raise ValueError(f"unknown datatype {text!r}; use one of {', '.join(DATATYPES)}")
    return datatype


def bf16_to_fp32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype("<u4") << 16).view("<f4")


def fp32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even; ``values`` must be finite."""
    bits = values.astype("<f4").view("<u4")
    rounded: np.ndarray = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")
