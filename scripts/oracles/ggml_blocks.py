#!/usr/bin/env python3
"""What GGUF's block types mean, by the PyPI package gguf: the fixture of tests/codec/ggml_blocks_test.cpp, and the codebooks.

    ggml_blocks.py            writes tests/data/ggml/blocks.json: of 10,000 random blocks of every type a hash of the decoded values, and
                              the first values as bits
    ggml_blocks.py --tables   writes src/codec/ggml/codebooks.inc: the grids of the IQ types, packed as the package has them

The bytes are those of splitmix64 (src/base/rng.h), which the test repeats: odd scales, infinities and NaN come of themselves, one block of
32 of a float16 scale has them. A NaN's sign and payload are the processor's choice, so each counts as 0x7fc00000.
Types that the package has no decoder for (Q8_1, Q8_K, Q1_0, Q2_0) are decoded here by a plain reading of ggml-common.h's structures; plain
types by numpy. Tested with gguf 0.19, numpy 2.4, xxhash 3.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import xxhash

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCKS = 10_000
SHOWN = 48  # values whose bits are in the fixture, for diagnosis
# name: (id, elements, bytes) of what this version of the package doesn't list, or lists with a size that ggml-common.h no longer has (40)
OTHERS = {"Q2_0": (42, 64, 18), "Q8_1": (9, 32, 36)}
PLAIN = {"F32": "<f4", "F16": "<f2", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}


def splitmix64(n):
    with np.errstate(over="ignore"):
        n = n + np.uint64(0x9E3779B97F4A7C15)
        n = (n ^ (n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        n = (n ^ (n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return n ^ (n >> np.uint64(31))


def random_bytes(seed, count):
    """Those of Rng(seed).bits(), little-endian."""
    start = splitmix64(np.array([seed], dtype=np.uint64))
    with np.errstate(over="ignore"):
        words = splitmix64(start + np.arange((count + 7) // 8, dtype=np.uint64))
    return words.astype("<u8").view(np.uint8)[:count]


def half(blocks, at):
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def signed_scale(blocks, scale_bytes, quants):
    """d, something else, then int8 quants."""
    d = half(blocks, 0) if scale_bytes == 2 else blocks[:, :4].copy().view("<f4")
    return d * blocks[:, 4 : 4 + quants].view(np.int8).astype(np.float32)


def q1_0(blocks):
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    d = half(blocks, 0)
    return np.where(bits == 1, d, -d)


def q2_0(blocks):
    codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return half(blocks, 0) * (codes.reshape(len(blocks), -1).astype(np.float32) - np.float32(1))


BY_DEFINITION = {"Q8_1": lambda b: signed_scale(b, 2, 32), "Q8_K": lambda b: signed_scale(b, 4, 256), "Q1_0": q1_0, "Q2_0": q2_0}


def decode(name, blocks):
    """-> (float32 values, which oracle)"""
    if name in PLAIN:
        return blocks.reshape(-1).view(PLAIN[name]).astype(np.float32), "numpy"
    if name in BY_DEFINITION:
        return BY_DEFINITION[name](blocks), "ggml-common.h"
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]), "gguf"


def write_fixture():
    types = {t.name: (t.value, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType} | OTHERS
    out = []
    for name, (number, elements, size) in sorted(types.items(), key=lambda item: item[1]):
        with np.errstate(all="ignore"):
            values, oracle = decode(name, random_bytes(number, BLOCKS * size).reshape(BLOCKS, size))
        bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32)
        assert bits.size == BLOCKS * elements, name
        bits = np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint32(0x7FC00000), bits)
        digest = xxhash.xxh3_64_hexdigest(bits.astype("<u4").tobytes())
        out.append({"type": number, "name": name, "oracle": oracle, "hash": digest, "first": [f"{b:08x}" for b in bits[:SHOWN]]})
    text = json.dumps({"blocks": BLOCKS, "types": out}, separators=(",", ":")).replace('{"type"', '\n{"type"')
    (ROOT / "tests/data/ggml").mkdir(exist_ok=True)
    (ROOT / "tests/data/ggml/blocks.json").write_text(text + "\n")


def write_tables():
    lines = []
    for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ3_XXS", "IQ3_S"]:
        quant = getattr(gguf.quants, name)
        words = np.frombuffer(bytes.fromhex(quant.grid_hex.decode()), dtype="<u2")
        assert len(words) == quant.grid_shape[0]
        lines.append(f"constexpr uint16_t k{name.replace('_', '').capitalize()}[{len(words)}] = {{")
        for at in range(0, len(words), 16):
            lines.append("    " + " ".join(f"0x{w:04x}," for w in words[at : at + 16]))
        lines.append("};")
    (ROOT / "src/codec/ggml/codebooks.inc").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_tables() if "--tables" in sys.argv else write_fixture()
