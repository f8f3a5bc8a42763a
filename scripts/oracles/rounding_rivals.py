#!/usr/bin/env python3
"""Makes tests/data/quantize/rivals.f32: a small matrix, the second moment of its inputs, and what plain readings of two papers make of them.

    python3 scripts/oracles/rounding_rivals.py

GPTQ: Frantar et al. 2022, algorithm 1, with the columns by falling diagonal of H (act-order) and ranges found group by group.
AWQ: Lin et al. 2023, section 3.2: s = mean|x|^r over a grid of r, then the clipping search; candidates are judged by tr(D H D^T).
Needs numpy. The file is a sequence of little-endian float32: W [R, C], H [C, C], mean|x| [C], GPTQ's W [R, C], RTN's W [R, C], AWQ's scales [C],
AWQ's W [R, C] in the original basis.
"""
import pathlib

import numpy as np

ROWS, COLUMNS, TOKENS, GROUP, BITS = 24, 64, 300, 32, 3
TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "quantize" / "rivals.f32"


def find_range(weights, limit=np.inf):
    """Scale (float16) and zero point of each row, asymmetric, min-max with 0 included; clamped to +-limit."""
    least = np.maximum(np.minimum(weights.min(1), 0), -limit)
    greatest = np.minimum(np.maximum(weights.max(1), 0), limit)
    top = 2**BITS - 1
    scale = np.float16((greatest - least) / top).astype(np.float64)
    return scale, np.clip(np.rint(-least / scale), 0, top)


def quantize(weights, scale, zero):
    if weights.ndim == 2:
        scale, zero = scale[:, None], zero[:, None]
    return scale * (np.clip(np.rint(weights / scale) + zero, 0, 2**BITS - 1) - zero)


def rtn(weights):
    out = np.empty_like(weights)
    for first in range(0, COLUMNS, GROUP):
        part = slice(first, first + GROUP)
        out[:, part] = quantize(weights[:, part], *find_range(weights[:, part]))
    return out


def gptq(weights, hessian):
    hessian = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(COLUMNS)
    order = np.argsort(-np.diag(hessian), kind="stable")
    work, out = weights[:, order].copy(), np.empty_like(weights)
    inverse = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    for i in range(COLUMNS):
        if i % GROUP == 0:
            scale, zero = find_range(work[:, i:i + GROUP])
        rounded = quantize(work[:, i], scale, zero)
        work[:, i + 1:] -= np.outer((work[:, i] - rounded) / inverse[i, i], inverse[i, i + 1:])
        out[:, order[i]] = rounded
    return out


def loss(difference, hessian):
    return np.sum(difference @ hessian * difference)


def awq(weights, hessian, magnitude):
    best = np.inf
    for step in range(20):
        scale = np.maximum(magnitude ** (step / 20), 1e-4)
        scale /= np.sqrt(scale.max() * scale.min())
        found = loss(weights - rtn(weights * scale) / scale, hessian)
        if found < best:
            best, scales = found, scale
    scaled, moment, out = weights * scales, hessian / np.outer(scales, scales), np.empty_like(weights)
    for first in range(0, COLUMNS, GROUP):
        part = slice(first, first + GROUP)
        group, largest, least = scaled[:, part], np.abs(scaled[:, part]).max(1), np.full(ROWS, np.inf)
        for step in range(10):
            rounded = quantize(group, *find_range(group, largest * (1 - step / 20)))
            difference = group - rounded
            found = np.sum(difference @ moment[part, part] * difference, 1)
            better = found < least
            out[better, part], least[better] = rounded[better], found[better]
    return scales, out / scales


def main():
    rng = np.random.Generator(np.random.PCG64(7))
    mixing = rng.standard_normal((COLUMNS, COLUMNS)) / np.sqrt(COLUMNS) + np.diag(rng.uniform(0.2, 3, COLUMNS))
    inputs = rng.standard_normal((TOKENS, COLUMNS)) @ mixing
    inputs[:, 5] *= 12  # a salient channel
    weights = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32).astype(np.float64)
    hessian = (inputs.T @ inputs / TOKENS).astype(np.float32).astype(np.float64)
    magnitude = np.abs(inputs).mean(0)
    scales, by_awq = awq(weights, hessian, magnitude)
    arrays = [weights, hessian, magnitude, gptq(weights, hessian), rtn(weights), scales, by_awq]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays))
    for name, rounded in (("rtn", arrays[4]), ("gptq", arrays[3]), ("awq", by_awq)):
        print(f"{name}: {loss(weights - rounded, hessian) / loss(weights, hessian):.5f}")


if __name__ == "__main__":
    main()
