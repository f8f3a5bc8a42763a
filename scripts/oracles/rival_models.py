#!/usr/bin/env python3
"""Quantizes a whole Llama by a plain reading of a rival's paper and writes it as a Hugging Face directory of float32, for `tq eval` to compare
with what `tq quantize --method` makes of the same text (docs/method.md, section 6).

    tq convert MODEL -o plain --dtype f32
    python3 scripts/oracles/rival_models.py plain -o by-numpy --method gptq --bits 3 --tokens 8192 --calibration data/calibration/*.txt
    tq quantize plain -o by-tq --method gptq --bits 3 --calibration-tokens 8192 --calibration data/calibration/*.txt
        --embedding original --head original
    tq eval by-numpy by-tq --against plain --text FILE --skip-float

gptq, awq: the readings of rounding_rivals.py, matrix by matrix; gptq on what the rounded layers before make of the text.
quip: QuIP# (Tseng et al. 2024): random signs and Hadamard transforms on both sides, block LDL, E8P vectors. --artifact DIR, one of tq's by
this method, is where the tables of E8P come from.
Needs numpy and tokenizers, and of the model: Llama's names, no biases, one file.
"""
import argparse
import json
import pathlib
import shutil
import struct
import sys

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs" / "reference"))
import decode  # noqa: E402

LENGTH = 1024
F = np.float32


# ---------------------------------------------------------------- files

def write_directory(source, target, weights):
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, target)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in weights.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + 4 * values.size]}
        at += 4 * values.size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in weights.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())


def sequences(tokenizer, files, tokens):
    """As the program chooses them: equal shares of every text, spread over it."""
    ids = [tokenizer.encode(pathlib.Path(file).read_text(), add_special_tokens=False).ids for file in files]
    have, taken, wanted = [len(each) // LENGTH for each in ids], [0] * len(ids), tokens // LENGTH
    while wanted > 0 and taken != have:
        for i in range(len(ids)):
            if wanted > 0 and taken[i] < have[i]:
                taken[i], wanted = taken[i] + 1, wanted - 1
    return [np.array(ids[i][n * have[i] // taken[i] * LENGTH:][:LENGTH]) for i in range(len(ids)) for n in range(taken[i])]


# ---------------------------------------------------------------- the model

class Llama:
    def __init__(self, directory):
        self.config = config = json.loads((directory / "config.json").read_text())
        tensors = decode.read_tensors(str(directory))
        self.weights = {name: np.array(tensor.data.view("<f4")).reshape(tensor.shape) for name, tensor in tensors.items()}
        self.layers, self.heads, self.kv_heads = (config[key] for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))
        self.head_dim = config.get("head_dim", config["hidden_size"] // self.heads)
        angles = np.arange(LENGTH)[:, None] * config["rope_theta"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        self.cos, self.sin = (np.tile(f(angles), 2)[:, None].astype(F) for f in (np.cos, np.sin))
        self.mask = np.triu(np.full((LENGTH, LENGTH), -np.inf, F), 1)

    def of(self, layer, name):
        return self.weights[f"model.layers.{layer}.{name}.weight"]

    def normed(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + F(self.config["rms_norm_eps"])) * weight

    def turned(self, x):
        half = self.head_dim // 2
        return x * self.cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * self.sin

    def layer(self, layer, x, see, last=None):
        """What the layer makes of x [T, H]; see(tap, input). last: the tap after which nothing is wanted."""
        tokens = len(x)
        heads = lambda name, count: (a @ self.of(layer, name).T).reshape(tokens, count, self.head_dim)  # noqa: E731
        a = self.normed(x, self.of(layer, "input_layernorm"))
        see("qkv", a)
        if last == "qkv":
            return None
        query = self.turned(heads("self_attn.q_proj", self.heads)).transpose(1, 0, 2)
        key = np.repeat(self.turned(heads("self_attn.k_proj", self.kv_heads)), self.heads // self.kv_heads, 1).transpose(1, 2, 0)
        value = np.repeat(heads("self_attn.v_proj", self.kv_heads), self.heads // self.kv_heads, 1).transpose(1, 0, 2)
        scores = query @ key / np.sqrt(F(self.head_dim)) + self.mask[:tokens, :tokens]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(1, 0, 2).reshape(tokens, -1)
        see("o", mixed)
        if last == "o":
            return None
        x = x + mixed @ self.of(layer, "self_attn.o_proj").T
        a = self.normed(x, self.of(layer, "post_attention_layernorm"))
        see("gate_up", a)
        if last == "gate_up":
            return None
        gate = a @ self.of(layer, "mlp.gate_proj").T
        a = gate / (1 + np.exp(-gate)) * (a @ self.of(layer, "mlp.up_proj").T)
        see("down", a)
        return None if last == "down" else x + a @ self.of(layer, "mlp.down_proj").T


READERS = {"qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "o": ["self_attn.o_proj"],
           "gate_up": ["mlp.gate_proj", "mlp.up_proj"], "down": ["mlp.down_proj"]}


class Moments:
    """Mean x x^T and |x| of every tap."""

    def __init__(self):
        self.sum, self.size, self.tokens = {}, {}, {}

    def see(self, tap, x):
        self.sum[tap] = self.sum.get(tap, 0) + x.T @ x
        self.size[tap] = self.size.get(tap, 0) + np.abs(x).sum(0, dtype=np.float64)
        self.tokens[tap] = self.tokens.get(tap, 0) + len(x)

    def mean(self, tap):
        return self.sum[tap].astype(np.float64) / self.tokens[tap]

    def magnitude(self, tap):
        return self.size[tap] / self.tokens[tap]


# ---------------------------------------------------------------- GPTQ and AWQ

def group_of(columns):
    return next(group for group in (128, 64, 32, 16, 8) if columns % group == 0)


def find_range(weights, bits, limit=np.inf):
    least = np.maximum(np.minimum(weights.min(-1), 0), -limit)
    greatest = np.minimum(np.maximum(weights.max(-1), 0), limit)
    scale = np.float16((greatest - least) / (2**bits - 1)).astype(np.float64)
    scale = np.where(scale > 0, scale, 1)
    return scale[..., None], np.clip(np.rint(-least / scale), 0, 2**bits - 1)[..., None]


def rounded(weights, scale, zero, bits):
    return scale * (np.clip(np.rint(weights / scale) + zero, 0, 2**bits - 1) - zero)


def by_groups(weights, bits):
    grouped = weights.reshape(len(weights), -1, group_of(weights.shape[1]))
    return rounded(grouped, *find_range(grouped, bits), bits).reshape(weights.shape)


def gptq(weights, hessian, bits):
    columns, group = weights.shape[1], group_of(weights.shape[1])
    hessian = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(columns)
    order = np.argsort(-np.diag(hessian), kind="stable")
    work, out = weights[:, order].astype(np.float64), np.empty(weights.shape)
    inverse = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    for first in range(0, columns, group):  # whole groups: what is behind one hears of all its columns together
        errors = np.empty((len(work), group))
        scale, zero = find_range(work[:, first:first + group], bits)
        for i in range(group):
            at = first + i
            value = rounded(work[:, at], scale[:, 0], zero[:, 0], bits)
            errors[:, i] = (work[:, at] - value) / inverse[at, at]
            work[:, at + 1:first + group] -= np.outer(errors[:, i], inverse[at, at + 1:first + group])
            out[:, order[at]] = value
        work[:, first + group:] -= errors @ inverse[first:first + group, first + group:]
    return out


def loss(difference, hessian):
    return np.sum(difference @ hessian * difference)


def awq_scales(readers, hessian, magnitude, bits):
    best, scales = np.inf, None
    for step in range(20):
        scale = np.maximum(magnitude ** (step / 20), 1e-4)
        scale /= np.sqrt(scale.max() * scale.min())
        found = sum(loss(weights - by_groups(weights * scale, bits) / scale, hessian) for weights in readers)
        if found < best:
            best, scales = found, scale
    return scales


def awq_clipped(weights, hessian, bits):
    group, out = group_of(weights.shape[1]), np.empty(weights.shape)
    for first in range(0, weights.shape[1], group):
        part = slice(first, first + group)
        largest, least = np.abs(weights[:, part]).max(1), np.full(len(weights), np.inf)
        for step in range(10):
            values = rounded(weights[:, part], *find_range(weights[:, part], bits, largest * (1 - step / 20)), bits)
            difference = weights[:, part] - values
            found = np.sum(difference @ hessian[part, part] * difference, 1)
            better = found < least
            out[better, part], least[better] = values[better], found[better]
    return out


def awq_layer(model, layer, moments, bits):
    scale = {}
    for tap in ("qkv", "gate_up", "down"):  # o reads values that several query heads share
        readers = [model.of(layer, name).astype(np.float64) for name in READERS[tap]]
        scale[tap] = awq_scales(readers, moments.mean(tap), moments.magnitude(tap), bits)
    for norm, tap in (("input_layernorm", "qkv"), ("post_attention_layernorm", "gate_up")):
        model.weights[f"model.layers.{layer}.{norm}.weight"] = (model.of(layer, norm) / scale[tap]).astype(F)
    for tap, names in READERS.items():
        own = scale.get(tap, 1.0)
        hessian = moments.mean(tap) / np.outer(own, own) if tap in scale else moments.mean(tap)
        for name in names:
            weights = model.of(layer, name) * own
            if name == "mlp.up_proj":
                weights = weights / scale["down"][:, None]
            is_clipped = name not in ("self_attn.q_proj", "self_attn.k_proj")
            model.weights[f"model.layers.{layer}.{name}.weight"] = (
                awq_clipped(weights, hessian, bits) if is_clipped else by_groups(weights, bits)).astype(F)


# ---------------------------------------------------------------- QuIP#

class E8P:
    # What divides weights of unit size, and what multiplies the rest for the second stage (the paper's program).
    SCALES = {2: (1.03, 0), 3: (0.98, 2.04), 4: (1.03, 3.45)}

    def __init__(self, artifact, bits):
        tensors = decode.read_tensors(artifact)
        self.entries, self.residual = (np.array(tensors[name].data.view("<f4")).reshape(256, 8).astype(np.float64)
                                       for name in ("e8p.absolute", "e8p.residual"))
        self.is_odd = np.rint(self.entries.sum(1)).astype(np.int64) % 2 == 1
        self.bits, (self.scale, self.fine) = bits, self.SCALES[bits]

    def nearest(self, x):
        """Of the 65536 vectors, the nearest to each row of x [n, 8]."""
        best, out = np.full(len(x), np.inf), np.empty(x.shape)
        for shift in (0.25, -0.25):
            y = x - shift
            signs, size = np.where(y < 0, -1.0, 1.0), np.abs(y)
            gain = size @ self.entries.T  # with every sign its own
            cost = np.min(size[:, None] * self.entries, 2)  # of one sign that is not
            is_odd = (signs < 0).sum(1) % 2 == 1
            gain -= np.where(is_odd[:, None] != self.is_odd, 2 * cost, 0)
            distance = np.sum(self.entries**2, 1) - 2 * gain
            chosen = np.argmin(distance, 1)
            entry = self.entries[chosen]
            flip = np.argmin(size * entry, 1)
            rows = np.flatnonzero(is_odd != self.is_odd[chosen])
            signs[rows, flip[rows]] *= -1
            value = signs * entry + shift
            found = np.sum((x - value)**2, 1)
            better = found < best
            out[better], best[better] = value[better], found[better]
        return out

    def round(self, x):
        x = x * self.scale
        value = self.nearest(x)
        if self.bits == 4:
            value = value + self.nearest((x - value) * self.fine) / self.fine
        elif self.bits == 3:
            left = (x - value) * self.fine
            distance = np.sum(self.residual**2, 1) - 2 * left @ self.residual.T
            value = value + self.residual[np.argmin(distance, 1)] / self.fine
        return value / self.scale


def quip(weights, hessian, e8p, random):
    rows, columns = weights.shape
    row_sign, sign = (random.choice([-1.0, 1.0], n) for n in (rows, columns))
    left, right = decode.hadamard(rows) * row_sign, decode.hadamard(columns) * sign
    work = left @ weights.astype(np.float64) @ right.T
    hessian = right @ hessian @ right.T
    hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(columns)
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]  # H = U U^T
    size, out, error = np.sqrt(np.mean(work**2)), np.empty(work.shape), np.empty(work.shape)
    for first in range(0, columns, 8):
        band = slice(first, first + 8)
        feedback = upper[:first, band] @ np.linalg.inv(upper[band, band])
        target = work[:, band] + error[:, :first] @ feedback
        out[:, band] = size * e8p.round(target / size)
        error[:, band] = work[:, band] - out[:, band]
    return left.T @ out @ right


# ---------------------------------------------------------------- all layers

def quantize(model, hidden, options):
    original = [x.copy() for x in hidden]
    ignore = lambda tap, x: None  # noqa: E731
    random = np.random.default_rng(options.seed)
    e8p = E8P(options.artifact, options.bits) if options.method == "quip" else None
    for layer in range(model.layers):
        if options.method == "gptq":  # each tap on what the quantized model makes of the text so far
            for tap, names in READERS.items():
                moments = Moments()
                for x in hidden:
                    model.layer(layer, x, moments.see, last=tap)
                for name in names:
                    model.weights[f"model.layers.{layer}.{name}.weight"] = gptq(model.of(layer, name), moments.mean(tap), options.bits).astype(F)
            hidden = [model.layer(layer, x, ignore) for x in hidden]
        else:
            moments = Moments()
            original = [model.layer(layer, x, moments.see) for x in original]
            if options.method == "awq":
                awq_layer(model, layer, moments, options.bits)
            else:
                for tap, names in READERS.items():
                    for name in names:
                        model.weights[f"model.layers.{layer}.{name}.weight"] = quip(model.of(layer, name), moments.mean(tap), e8p, random).astype(F)
        print(f"layer {layer + 1} of {model.layers}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Quantize a Llama by a plain reading of a paper.")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--method", choices=("gptq", "awq", "quip"), required=True)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--artifact")
    parser.add_argument("--calibration", nargs="+", required=True)
    options = parser.parse_args()
    model = Llama(options.model)
    texts = sequences(Tokenizer.from_file(str(options.model / "tokenizer.json")), options.calibration, options.tokens)
    quantize(model, [model.weights["model.embed_tokens.weight"][ids] for ids in texts], options)
    write_directory(options.model, options.output, model.weights)


if __name__ == "__main__":
    main()
