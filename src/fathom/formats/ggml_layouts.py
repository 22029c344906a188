"""Blocks of numbers in memory: the bytes of GGUF's number types (ggml-common.h), as numpy structures."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

# A block in memory, field after field. `scale` and `offset` are fp16: a weight is scale * q, or scale * q + offset.
# 16 bytes `low` hold 32 numbers of 4 bits: the low halves are numbers 0 to 15, the high halves 16 to 31.
LOW = ("low", "u1", 16)
Q8_0 = np.dtype([("scale", "<f2"), ("q", "i1", 32)])
Q4_0 = np.dtype([("scale", "<f2"), LOW])  # q = low - 8
Q4_1 = np.dtype([("scale", "<f2"), ("offset", "<f2"), LOW])
Q5_0 = np.dtype([("scale", "<f2"), ("high", "<u4"), LOW])  # bit i of high is the fifth bit of number i; q = that - 16
Q5_1 = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("high", "<u4"), LOW])
# 256 numbers in 8 groups of 32; each group has a scale and an offset of 6 bits, which count in `scale` and `offset`.
# Bytes of `six`: 0-3 scales of groups 0-3, 4-7 their offsets (6 bits each), 8-11 the low 4 bits of the scale (low half)
# and offset (high half) of groups 4-7, whose upper 2 bits are the upper bits of bytes 0-3 and 4-7.
Q4_K = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("six", "u1", 12), ("low", "u1", (4, 32))])
# The same with a fifth bit of each number: bit g of byte i of `high` belongs to number i of group g.
Q5_K = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("six", "u1", 12), ("high", "u1", 32), ("low", "u1", (4, 32))])
# 256 numbers of 6 bits in 16 groups of 16; per 128 numbers 64 bytes with the low 4 bits and 32 with the upper 2.
Q6_K = np.dtype([("low", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", 16), ("scale", "<f2")])
# 256 numbers of 2 bits in 16 groups of 16; a byte of `scales` is a group's scale (low half) and offset (high half), and
# 32 bytes of `two` hold 128 numbers: their lowest 2 bits the first 32, the next 2 bits the next 32 ...
Q2_K = np.dtype([("scales", "u1", 16), ("two", "u1", (2, 32)), ("scale", "<f2"), ("offset", "<f2")])
# The same with a third bit: bit g of byte i of `high`, of number i of 32 in group g; where it is 0, 4 is subtracted.
# The scales of 6 bits, minus 32: 8 bytes of low 4 bits (scales 0-7, then 8-15), 4 of upper 2 bits, four to a byte.
Q3_K = np.dtype([("high", "u1", 32), ("two", "u1", (2, 32)), ("six", "u1", 12), ("scale", "<f2")])
# 4 bits choose one of 16 values that lie closer together around 0.
IQ4_NL = np.dtype([("scale", "<f2"), LOW])
IQ4_XS = np.dtype([("scale", "<f2"), ("upper", "<u2"), ("lower", "u1", 4), ("low", "u1", (8, 16))])
# The scale is a power of two, 2^(exponent - 128), and 4 bits are twice a floating-point number (OCP MX, E2M1).
MXFP4 = np.dtype([("exponent", "u1"), LOW])
# Activations in products of llama.cpp: `sums` are the sums of the q, of all 32 times the scale, of 16 each as they are.
Q8_1 = np.dtype([("scale", "<f2"), ("sums", "<f2"), ("q", "i1", 32)])
Q8_K = np.dtype([("scale", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)])
NONLINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
