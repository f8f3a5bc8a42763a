#!/usr/bin/env python3
"""Reference decoder of the TurboQuant artifact formats 1 and 2 (docs/format.md): plain Python and numpy, nothing of the program.

    python3 docs/reference/decode.py DIR                          list the tensors
    python3 docs/reference/decode.py DIR --tensor NAME            print one as float32
    python3 docs/reference/decode.py DIR --output FILE.npz        decode all
    python3 docs/reference/decode.py DIR --compare FILE.npz|json  decode all and compare exactly
    python3 docs/reference/decode.py DIR --verify                 compare the weight files with the hashes of turboquant.json

It is slow and keeps whole tensors in memory. Where it and the program differ, format.md decides. Exit status: 0, or 3 for bad input.
"""
import argparse
import json
import os
import re
import sys
import zlib

import numpy as np

FORMAT = 3
ROW_SCALE_FORMAT = 2  # from which on E8P vectors may have row scales
ONE_BIT_FORMAT = 3  # from which on ranges of rows may have one bit a weight
LINE_ROWS, LINE_COLUMNS, LINE_BYTES = 128, 4, 64
RATE_ROWS = 32
MIN_RATE, MAX_RATE, MAX_WINDOW = 1, 8, 24
HADAMARD_BLOCK = 256
MAX_HEADER = 100_000_000
MAX_JSON = 256 << 20

DTYPES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4,
          "F32": 4, "F64": 8, "I64": 8, "U64": 8}


class FormatError(Exception):
    """One line: what is wrong, and where."""


def fail(where, what):
    raise FormatError(f"{where}: {what}")


# ---------------------------------------------------------------- files

def parse_json(data, where):
    def unique(pairs):
        keys = set()
        for key, _ in pairs:
            if key in keys:
                fail(where, f"key '{key}' appears twice")
            keys.add(key)
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        fail(where, "not valid JSON")


def read_json(path):
    try:
        if os.path.getsize(path) > MAX_JSON:
            fail(path, "too large for such a file")
        with open(path, "rb") as file:
            value = parse_json(file.read(), path)
    except OSError as error:
        fail(path, f"cannot be read ({error.strerror})")
    if not isinstance(value, dict):
        fail(path, "not a JSON object")
    return value


def whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Tensor:
    """An array of a safetensors file: dtype name, shape, raw bytes."""

    def __init__(self, dtype, shape, data, file):
        self.dtype, self.shape, self.data, self.file = dtype, tuple(shape), data, file


def check_tiling(entries, data_bytes, where):
    """The arrays follow each other without gap or overlap, from the first byte of the data to the last."""
    offset = 0
    for begin, end, name, dtype, shape in sorted(entries):
        if begin != offset or end < begin:
            fail(where, f"tensor '{name}' has the offsets {begin} to {end}, where {offset} should begin")
        size = DTYPES[dtype]
        for dim in shape:
            size *= dim
        if end - begin != size:
            fail(where, f"tensor '{name}' has {end - begin} bytes, its shape and type need {size}")
        offset = end
    if offset != data_bytes:
        fail(where, f"the tensors need {offset} bytes, the file has {data_bytes}")


def read_safetensors(path):
    try:
        raw = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)
    except OSError as error:
        fail(path, f"cannot be read ({error.strerror})")
    if raw.size < 8:
        fail(path, "too short for a safetensors file")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if length > MAX_HEADER or length > raw.size - 8:
        fail(path, f"a header of {length} bytes does not fit the file")
    header = parse_json(raw[8:8 + length].tobytes(), path)
    if not isinstance(header, dict):
        fail(path, "the header is not a JSON object")
    header.pop("__metadata__", None)
    entries = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            fail(path, f"tensor '{name}' lacks its dtype, shape or data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            fail(path, f"tensor '{name}' has the unknown type {entry['dtype']}")
        if not isinstance(shape, list) or not all(map(whole, shape)):
            fail(path, f"tensor '{name}' has an impossible shape")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
            fail(path, f"tensor '{name}' has impossible data_offsets")
        entries.append((offsets[0], offsets[1], name, entry["dtype"], tuple(shape)))
    data = raw[8 + length:]
    check_tiling(entries, data.size, path)
    return {name: Tensor(dtype, shape, data[begin:end], path) for begin, end, name, dtype, shape in entries}


def weight_files(directory):
    """The shards, and the index that lists them or None."""
    single = os.path.join(directory, "model.safetensors")
    if os.path.exists(single):
        return ["model.safetensors"], None
    index_path = single + ".index.json"
    index = read_json(index_path).get("weight_map")
    if not isinstance(index, dict) or not index:
        fail(index_path, "'weight_map' is missing or empty")
    for name, shard in index.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\]+", shard) or ".." in shard:
            fail(index_path, f"tensor '{name}' is in {shard!r}, not a plain file name")
    return sorted(set(index.values())), index


def read_tensors(directory):
    shards, index = weight_files(directory)
    tensors = {}
    for shard in shards:
        for name, tensor in read_safetensors(os.path.join(directory, shard)).items():
            if name in tensors:
                fail(directory, f"tensor '{name}' is in {os.path.basename(tensors[name].file)} and in {shard}")
            tensors[name] = tensor
    for name, shard in (index or {}).items():
        if name not in tensors or os.path.basename(tensors[name].file) != shard:
            fail(directory, f"tensor '{name}' is not in {shard} as the index says")
    return tensors


# ---------------------------------------------------------------- XXH3, 64 bits, seed 0, of more than 240 bytes

XXH_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
MASK = (1 << 64) - 1


def xxh3(data):
    """data: uint8 array of more than 240 bytes. Returns 16 hexadecimal digits."""
    if data.size <= 240:
        raise ValueError("xxh3 is written for more than 240 bytes")
    secret = np.frombuffer(XXH_SECRET, np.uint8)
    key = np.stack([secret[8 * n:8 * n + 64].view("<u8") for n in range(16)])
    acc = np.array([P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]], np.uint64)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)

    def accumulate(stripes, keys):  # [n, 8] each; the sums of 64 bits wrap
        mixed = stripes ^ keys
        return stripes.reshape(-1, 4, 2)[:, :, ::-1].reshape(-1, 8).sum(0) + ((mixed & low) * (mixed >> half)).sum(0)

    blocks = (data.size - 1) // 1024
    last = secret[128:192].view("<u8")
    for n in range(blocks):
        acc = acc + accumulate(np.frombuffer(data[1024 * n:1024 * n + 1024].tobytes(), "<u8").reshape(16, 8), key)
        acc = (acc ^ (acc >> np.uint64(47)) ^ last) * np.uint64(P32[0])
    stripes = (data.size - 1 - 1024 * blocks) // 64
    tail = data[1024 * blocks:1024 * blocks + 64 * stripes].tobytes()
    acc = acc + accumulate(np.frombuffer(tail, "<u8").reshape(stripes, 8), key[:stripes])
    acc = acc + accumulate(np.frombuffer(data[-64:].tobytes(), "<u8").reshape(1, 8), np.frombuffer(XXH_SECRET[121:185], "<u8").reshape(1, 8))
    fold = np.frombuffer(XXH_SECRET[11:75], "<u8")
    result = data.size * P64[0] & MASK
    for i in range(0, 8, 2):
        product = (int(acc[i]) ^ int(fold[i])) * (int(acc[i + 1]) ^ int(fold[i + 1]))
        result += (product & MASK) ^ (product >> 64)
    result &= MASK
    result = (result ^ (result >> 37)) * 0x165667919E3779F9 & MASK
    return f"{result ^ (result >> 32):016x}"


def verify(directory):
    path = os.path.join(directory, "turboquant.json")
    record = read_json(path)
    files = record.get("files")
    if not isinstance(files, dict) or not files:
        fail(path, "no list of files in it")
    shards, index = weight_files(directory)
    for name in shards + (["model.safetensors.index.json"] if index else []):
        if name not in files:
            fail(path, f"'files' lacks {name}")
    for name, expected in files.items():
        if "/" in name or "\\" in name:
            fail(path, f"'{name}' is not a plain file name")
        try:
            actual = xxh3(np.fromfile(os.path.join(directory, name), np.uint8))
        except (OSError, ValueError) as error:
            fail(os.path.join(directory, name), f"cannot be hashed ({error})")
        if actual != expected:
            fail(os.path.join(directory, name), "its content is not what was written")
    return len(files)


# ---------------------------------------------------------------- what the configuration asks for

class Config:
    """The sizes that shapes follow from. format.md, "Which matrices there are"."""

    def __init__(self, directory):
        self.where = os.path.join(directory, "config.json")
        self.json = read_json(self.where)
        self.check_method()
        self.hidden = self.integer("hidden_size")
        self.vocabulary = self.integer("vocab_size")
        self.layers = self.integer("num_hidden_layers")
        self.heads = self.integer("num_attention_heads")
        self.kv_heads = self.integer("num_key_value_heads", self.heads)
        kind = self.json.get("model_type", "")
        default = {"gemma3_text": 256, "qwen3": 128}.get(kind, self.hidden // self.heads)
        self.head_dim = self.integer("head_dim", default)
        self.intermediate = self.integer("intermediate_size")
        self.tied = self.json.get("tie_word_embeddings")
        if self.tied is None:
            self.tied = kind == "gemma3_text"
        self.experts = self.integer("num_experts", self.integer("num_local_experts", 0))
        self.expert_width = self.integer("moe_intermediate_size", self.intermediate)

    def check_method(self):
        settings = self.json.get("quantization_config")
        if not isinstance(settings, dict) or settings.get("quant_method") != "turboquant":
            fail(self.where, "not a TurboQuant artifact (quantization_config.quant_method)")
        version = settings.get("format")
        if not whole(version) or version < 1:
            fail(self.where, "quantization_config 'format' should be a whole number from 1")
        if version > FORMAT:
            fail(self.where, f"it has format {version}, this decoder reads up to {FORMAT}")
        self.format = version
        if settings.get("hadamard_block") != HADAMARD_BLOCK:
            fail(self.where, f"quantization_config 'hadamard_block' should be {HADAMARD_BLOCK}")

    def integer(self, key, default=None):
        value = self.json.get(key)
        if value is None:
            value = default
        if not whole(value) or value > 1 << 28 or (value == 0 and default != 0):
            fail(self.where, f"'{key}' is missing or makes no sense")
        return value

    def linears(self):
        """{name of a linear: (shape, name of its sign without ".sign")}, as far as config.json alone tells."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        out = {"model.embed_tokens": ((self.vocabulary, h), "lm_head" if self.tied else "model.embed_tokens"),
               "lm_head": ((self.vocabulary, h), "lm_head")}
        for layer in range(self.layers):
            a, m = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
            for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv), ("qkv_proj", q + 2 * kv)):
                out[a + name] = ((rows, h), a + "input")
            out[a + "o_proj"] = ((h, q), a + "o_proj")
            for name, rows in (("gate_proj", 1), ("up_proj", 1), ("gate_up_proj", 2)):
                out[m + name] = ((rows * self.intermediate, h), m + "input")
            out[m + "down_proj"] = ((h, self.intermediate), m + "down_proj")
            for e in (f"{m}", f"model.layers.{layer}.block_sparse_moe.") if self.experts else ():
                for name in ("gate_proj", "up_proj"):
                    out[f"{e}experts.{name}"] = ((self.experts, self.expert_width, h), e + "input")
                out[f"{e}experts.down_proj"] = ((self.experts, h, self.expert_width), e + "down_proj")
        return out


# ---------------------------------------------------------------- decoding

def plain_values(tensor, where):
    """float32 of a plain tensor. F32, F16 and BF16 exactly, F64 rounded to nearest even."""
    if tensor.dtype == "BF16":
        return (tensor.data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    if tensor.dtype not in kinds:
        fail(where, f"type {tensor.dtype} is not one that weights have here")
    return tensor.data.view(kinds[tensor.dtype]).astype(np.float32).reshape(tensor.shape)


def part(tensors, name, dtype, count):
    tensor = tensors.get(name)
    if tensor is None:
        fail("the artifact", f"tensor {name} is missing")
    where = f"{tensor.file}: {name}"
    if tensor.dtype != dtype:
        fail(where, f"is {tensor.dtype}, {dtype} was expected")
    if tensor.data.ctypes.data % DTYPES[dtype] != 0:  # a mapped file begins at a page
        fail(where, "lies at an odd place for its type")
    if tensor.shape != (count,):
        fail(where, f"has the shape {list(tensor.shape)}, [{count}] was expected")
    return tensor, where


def read_taps(tensors):
    """{rate: float32 [L]}, c_0 (the newest bit's) first."""
    taps = {}
    for name, tensor in tensors.items():
        if not name.startswith("taps."):
            continue
        where = f"{tensor.file}: {name}"
        numbers = re.fullmatch(r"taps\.([0-9]{1,2})\.([0-9]{1,2})", name)
        rate, window = map(int, numbers.groups()) if numbers else (0, 0)
        if not MIN_RATE <= rate <= MAX_RATE or not rate <= window <= MAX_WINDOW:
            fail(where, "names no rate from 1 to 8 with a window of at least as many and at most 24 taps")
        if rate in taps:
            fail(where, f"there are two tap tables for rate {rate}")
        part(tensors, name, "F32", window)
        taps[rate] = tensor.data.view("<f4").astype(np.float32)
        if not np.isfinite(taps[rate]).all():
            fail(where, "holds a value that is not finite")
    return taps


def line_bytes(rates, rows, columns):
    """Plane rows of a matrix, and the bytes of its lines."""
    plane_rows = sum(int(rate) * min(RATE_ROWS, rows - RATE_ROWS * i) for i, rate in enumerate(rates))
    return plane_rows, -(-plane_rows // LINE_ROWS) * -(-columns // LINE_COLUMNS) * LINE_BYTES


def unpack_planes(lines, columns):
    """Lines -> bits [plane rows, C]: byte = column, bit j of a byte in lane i = plane row 16 j + i of the 128."""
    across = -(-columns // LINE_COLUMNS)
    bits = np.unpackbits(lines.reshape(-1, across, 16, LINE_COLUMNS, 1), axis=4, bitorder="little")
    return bits.transpose(0, 4, 2, 1, 3).reshape(-1, across * LINE_COLUMNS)[:, :columns]


def decode_rotated(planes, plane_rows, rates, row_scale, taps):
    """W' [R, C]: the taps are added in their order, in float32, then comes the scale."""
    row_rates = np.repeat(rates, RATE_ROWS)[:row_scale.size].astype(np.int64)
    newest = np.cumsum(row_rates) - 1
    out = np.zeros((row_scale.size, planes.shape[1]), np.float32)
    for rate in np.unique(row_rates):
        chosen = np.flatnonzero(row_rates == rate)
        total = np.zeros((chosen.size, planes.shape[1]), np.float32)
        for j, tap in enumerate(taps[int(rate)]):
            total += np.where(planes[(newest[chosen] - j) % plane_rows], tap, -tap)
        out[chosen] = total * row_scale[chosen, None]
    return out


def unrotate(rotated, sign):
    """x = sign * Had(x') on each row: butterflies of growing distance, then the scale, all in float32."""
    rows, columns = rotated.shape
    block = 1
    while block < HADAMARD_BLOCK and columns % (2 * block) == 0:
        block *= 2
    values = rotated.reshape(rows, columns // block, block)
    half = 1
    while half < block:
        pairs = values.reshape(rows, columns // block, block // (2 * half), 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        values = np.stack([a + b, a - b], axis=3).reshape(rows, columns // block, block)
        half *= 2
    values = values * (np.float32(1) / np.sqrt(np.float32(block)))
    negated = np.unpackbits(sign, bitorder="little")[:columns].astype(bool)
    values = values.reshape(rows, columns)
    return np.where(negated, -values, values)


def activation_bits(tensors, name):
    """8 or 15, or 0 where the file does not say. Changes no decoded value."""
    if name + ".activation_bits" not in tensors:
        return 0
    bits, where = part(tensors, name + ".activation_bits", "U8", 1)
    if bits.data[0] not in (8, 15):
        fail(where, f"is {bits.data[0]}, 8 or 15 were expected")
    return int(bits.data[0])


def decode_grid(tensors, name, shape, tap, taps, version):
    experts, rows, columns = (1,) * (3 - len(shape)) + shape
    ranges = -(-rows // RATE_ROWS)
    rates, where = part(tensors, name + ".rates", "U8", experts * ranges)
    rates = np.array(rates.data).reshape(experts, ranges)
    if rates.min() < MIN_RATE or rates.max() > MAX_RATE:
        fail(where, "a range of rows has a rate outside 1 to 8 bits a weight")
    if rates.min() < 2 and version < ONE_BIT_FORMAT:
        fail(where, f"a range of rows has one bit a weight, which is there from format {ONE_BIT_FORMAT} on")
    for rate in np.unique(rates):
        if int(rate) not in taps:
            fail(where, f"rows have {rate} bits a weight, but there is no tap table for that rate")
    scales, where = part(tensors, name + ".row_scale", "F16", experts * rows)
    scales = scales.data.view("<f2").astype(np.float32).reshape(experts, rows)
    if not np.isfinite(scales).all():
        fail(where, f"the scale of row {int(np.flatnonzero(~np.isfinite(scales.reshape(-1)))[0])} is not finite")
    sign, _ = part(tensors, tap + ".sign", "U8", -(-columns // 8))
    activation_bits(tensors, name)
    sizes = [line_bytes(rates[e], rows, columns) for e in range(experts)]
    bits, _ = part(tensors, name + ".bits", "U8", sum(size for _, size in sizes))
    out, begin = [], 0
    for e, (plane_rows, size) in enumerate(sizes):
        planes = unpack_planes(np.array(bits.data[begin:begin + size]), columns)
        out.append(unrotate(decode_rotated(planes, plane_rows, rates[e], scales[e], taps), np.array(sign.data)))
        begin += size
    return np.stack(out).reshape(shape)


def unpack_codes(packed, count, bits):
    """The first `count` codes of every row of bytes [rows, bytes], lowest bits first."""
    planes = np.unpackbits(packed, axis=1, bitorder="little")[:, :count * bits].reshape(packed.shape[0], count, bits)
    return (planes.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(2)


def decode_scalar(tensors, name, shape):
    experts, rows, columns = (1,) * (3 - len(shape)) + shape
    facts, where = part(tensors, name + ".scalar", "U16", 2 * experts)
    facts = facts.data.view("<u2").reshape(experts, 2)
    bits, group = int(facts[0, 0]), int(facts[0, 1])
    if not 2 <= bits <= 8 or group < 1 or columns % group or (facts != facts[0]).any():
        fail(where, f"codes of {bits} bits in groups of {group} columns make no sense for {columns} columns")
    scales, row_bytes = rows * (columns // group), -(-columns * bits // 8)
    codes, _ = part(tensors, name + ".codes", "U8", experts * rows * row_bytes)
    zeros, _ = part(tensors, name + ".zero", "U8", experts * -(-scales * bits // 8))
    scale, where = part(tensors, name + ".scale", "F16", experts * scales)
    scale = scale.data.view("<f2").astype(np.float32).reshape(experts, rows, -1)
    if not np.isfinite(scale).all():
        fail(where, "holds a value that is not finite")
    order = np.tile(np.arange(columns), (experts, 1))
    if name + ".order" in tensors:
        order, where = part(tensors, name + ".order", "U16", experts * columns)
        order = order.data.view("<u2").reshape(experts, columns)
        if (np.sort(order, 1) != np.arange(columns)).any():
            fail(where, f"is no order of {columns} columns")
    codes = np.array(codes.data).reshape(experts, rows, row_bytes)
    zeros = np.array(zeros.data).reshape(experts, 1, -1)
    out = []
    for e in range(experts):
        group_of = np.empty(columns, np.int64)
        group_of[order[e]] = np.arange(columns) // group
        zero = unpack_codes(zeros[e], scales, bits).reshape(rows, -1)
        out.append(scale[e][:, group_of] * (unpack_codes(codes[e], columns, bits) - zero[:, group_of]).astype(np.float32))
    return np.stack(out).reshape(shape)


def character(n, q):
    return 0 if n % q == 0 else 1 if any(i * i % q == n % q for i in range(1, q)) else -1


def hadamard(n):
    """H_n [n, n] in float64, orthonormal."""
    m = next((m for m in (12, 20, 28, 36, 76, 140) if n % m == 0 and (n // m) & (n // m - 1) == 0), 1)
    block = n // m if m > 1 else n & -n
    factor = np.eye(n // block)
    if m in (12, 20, 140):
        factor = np.array([[1 if i == j or i == 0 else -1 if j == 0 else character(i - j, m - 1) for j in range(m)] for i in range(m)])
    elif m > 1:
        q = m // 2 - 1
        conference = [[0 if a == b else 1 if a == 0 or b == 0 else character(a - b, q) for b in range(q + 1)] for a in range(q + 1)]
        factor = np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])
    sylvester = np.ones((1, 1))
    while len(sylvester) < block:
        sylvester = np.kron([[1, 1], [1, -1]], sylvester)
    return np.kron(factor, sylvester) / np.sqrt(block * m)


def decode_vectors(table, codes):
    """float64 [n, 8] of 16-bit codes."""
    entries, signs = table[codes & 255], (codes[:, None] >> np.arange(8, 15)) & 1
    last = (np.rint(entries.sum(1)).astype(np.int64) + signs.sum(1)) % 2
    flipped = np.concatenate([signs, last[:, None]], 1)
    return np.where(flipped == 1, -entries, entries) + np.where(codes >> 15, 0.25, -0.25)[:, None]


def decode_e8p(tensors, name, shape, tap):
    experts, rows, columns = (1,) * (3 - len(shape)) + shape
    if columns % 8:
        fail(name, f"{columns} columns are no multiple of 8")
    count = rows * columns // 8
    codes, _ = part(tensors, name + ".vectors", "U16", experts * count)
    stages, where = part(tensors, name + ".stage", "F32", 2 * experts)
    stages = stages.data.view("<f4").astype(np.float64).reshape(experts, 2)
    tables = {}
    for kind in ("absolute", "residual"):
        table, where = part(tensors, "e8p." + kind, "F32", 2048)
        tables[kind] = table.data.view("<f4").astype(np.float64).reshape(256, 8)
    if not np.isfinite(stages).all() or not all((np.abs(table) <= 64).all() for table in tables.values()):
        fail(where, "holds a value that is not finite or beyond 64")
    row_sign, _ = part(tensors, name + ".row_sign", "U8", experts * -(-rows // 8))
    row_scale = np.ones((experts, rows))
    if name + ".row_scale" in tensors:
        scales, where = part(tensors, name + ".row_scale", "F16", experts * rows)
        row_scale = scales.data.view("<f2").astype(np.float64).reshape(experts, rows)
        if not np.isfinite(row_scale).all():
            fail(where, "holds a value that is not finite")
    sign, _ = part(tensors, tap + ".sign", "U8", -(-columns // 8))
    values = decode_vectors(tables["absolute"], codes.data.view("<u2").astype(np.int64)).reshape(experts, count * 8)
    if name + ".residual" in tensors:
        dtype = tensors[name + ".residual"].dtype
        fine, where = part(tensors, name + ".residual", dtype if dtype in ("U8", "U16") else "U8", experts * count)
        fine = fine.data.view("<u2" if dtype == "U16" else "u1").astype(np.int64)
        fine = decode_vectors(tables["absolute"], fine) if dtype == "U16" else tables["residual"][fine]
        values = values + stages[:, 1:] * fine.reshape(experts, count * 8)
    values = (stages[:, :1] * values).reshape(experts, rows, columns)
    columns_sign = 1 - 2.0 * np.unpackbits(np.array(sign.data), bitorder="little")[:columns]
    out = []
    for e in range(experts):
        packed = np.array(row_sign.data).reshape(experts, -1)[e]
        rows_sign = row_scale[e] * (1 - 2.0 * np.unpackbits(packed, bitorder="little")[:rows])
        out.append(rows_sign[:, None] * (hadamard(rows).T @ values[e] @ hadamard(columns)) * columns_sign)
    return np.stack(out).reshape(shape).astype(np.float32)


class Artifact:
    def __init__(self, directory):
        self.directory = directory
        self.config = Config(directory)
        self.tensors = read_tensors(directory)
        self.taps = read_taps(self.tensors)
        self.linears = self.config.linears()
        self.check_names()

    def check_names(self):
        for name in self.tensors:
            linear, _, kind = name.rpartition(".")
            if kind in ("bits", "codes", "vectors"):
                if linear not in self.linears:
                    fail(self.directory, f"tensor {name}: the configuration has no such linear")
                if sum(f"{linear}.{each}" in self.tensors for each in ("bits", "codes", "vectors", "weight")) > 1:
                    fail(self.directory, f"tensor {linear} is there twice, as .{kind} and as another")
                if kind == "vectors" and self.config.format < ROW_SCALE_FORMAT and linear + ".row_scale" in self.tensors:
                    fail(self.directory, f"tensor {linear}.row_scale: vectors have row scales from format {ROW_SCALE_FORMAT} on")
        needed = ["model.embed_tokens"] + ([] if self.config.tied else ["lm_head"])
        for layer in range(self.config.layers):
            needed += [f"model.layers.{layer}.self_attn.o_proj"]
        for name in needed:
            if not any(f"{name}.{kind}" in self.tensors for kind in ("bits", "codes", "vectors", "weight")):
                fail(self.directory, f"tensor {name}.weight is missing")

    def names(self):
        """Of the decoded tensors."""
        found = {n.rpartition(".")[0] + ".weight" for n in self.tensors if n.endswith((".bits", ".codes", ".vectors"))}
        return sorted(found | {n for n in self.tensors if n.endswith((".weight", ".bias"))})

    def decode(self, name):
        """float32 in the original basis."""
        linear = name.removesuffix(".weight")
        if linear + ".bits" in self.tensors:
            shape, tap = self.linears[linear]
            return decode_grid(self.tensors, linear, shape, tap, self.taps, self.config.format)
        if linear + ".codes" in self.tensors:
            return decode_scalar(self.tensors, linear, self.linears[linear][0])
        if linear + ".vectors" in self.tensors:
            return decode_e8p(self.tensors, linear, *self.linears[linear])
        if name not in self.tensors:
            fail(self.directory, f"there is no tensor {name}")
        tensor = self.tensors[name]
        if linear in self.linears and name.endswith(".weight") and tensor.shape != self.linears[linear][0]:
            fail(tensor.file, f"tensor {name} has the shape {list(tensor.shape)}, {list(self.linears[linear][0])} was expected")
        return plain_values(tensor, f"{tensor.file}: {name}")


# ---------------------------------------------------------------- command line

def summary(values):
    """What the golden files keep of a tensor: shape, CRC-32 of its little-endian float32 bytes, and some values."""
    flat = np.ascontiguousarray(values, "<f4").reshape(-1)
    at = sorted({i * (flat.size - 1) // 7 for i in range(8)})
    return {"shape": list(values.shape), "crc32": f"{zlib.crc32(flat.tobytes()):08x}", "values": {str(i): float(flat[i]) for i in at}}


def agrees(values, golden):
    """Whether a tensor is what a golden file says: to the last bit, or where the format allows rounding ("near") nearly."""
    if not golden.get("near"):
        return summary(values) == golden
    flat = values.reshape(-1)
    return list(values.shape) == golden["shape"] and all(abs(flat[int(i)] - v) <= 1e-5 * golden["near"] for i, v in golden["values"].items())


def compare(artifact, path):
    """Number of tensors that are equal to the last bit."""
    golden = read_json(path) if path.endswith(".json") else np.load(path)
    names = set(golden if isinstance(golden, dict) else golden.files)
    if names != set(artifact.names()):
        fail(path, f"the tensors differ: {sorted(names ^ set(artifact.names()))[:3]}")
    for name in sorted(names):
        values = artifact.decode(name)
        same = agrees(values, golden[name]) if isinstance(golden, dict) else \
            values.shape == golden[name].shape and values.tobytes() == golden[name].astype("<f4").tobytes()
        if not same:
            fail(path, f"tensor {name} differs")
    return len(names)


def main():
    parser = argparse.ArgumentParser(description="Decode a TurboQuant artifact (formats 1 and 2).")
    parser.add_argument("directory")
    for name in ("--tensor", "--output", "--compare"):
        parser.add_argument(name)
    parser.add_argument("--verify", action="store_true")
    flags = parser.parse_args()
    try:
        artifact = Artifact(flags.directory)
        if flags.verify:
            print(f"{verify(flags.directory)} files are what was written")
        if flags.tensor:
            print(artifact.decode(flags.tensor))
        if flags.output:
            np.savez(flags.output, **{name: artifact.decode(name) for name in artifact.names()})
        if flags.compare:
            print(f"{compare(artifact, flags.compare)} tensors are the same")
        if not (flags.verify or flags.tensor or flags.output or flags.compare):
            for name in artifact.names():
                values = artifact.decode(name)
                print(f"{name}  {list(values.shape)}  rms {float(np.sqrt(np.mean(values.astype(np.float64) ** 2))):.6g}")
    except FormatError as error:
        print(f"decode: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
