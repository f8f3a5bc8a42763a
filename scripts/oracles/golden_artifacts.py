#!/usr/bin/env python3
"""Makes tests/data/artifact/format-N: tiny artifacts, and what the reference decoder (docs/reference/decode.py) reads from them.

    python3 scripts/oracles/golden_artifacts.py TQ NAME…   TQ: the program; NAME: of the cases below, all without one

Needs numpy. A format version's files are made once and stay for ever: run it to add a case, not to refresh old ones.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "reference"))
import decode  # noqa: E402

NEWER = {"llama-quip-tuned-2": 2, "llama-mixed-2": 3}  # cases of later formats than the first


def folder_of(name):
    return ROOT / "tests" / "data" / "artifact" / f"format-{NEWER.get(name, 1)}"


BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
        "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 20, "vocab_size": 261, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True}

# name: (changes of the configuration, element type of the source, arguments of tq quantize)
CASES = {
    "llama-tied-3.25": ({}, "BF16", ["--bits", "3.25", "--effort", "fast"]),
    "llama-untied-2.5": ({"hidden_size": 72, "num_key_value_heads": 5, "attention_bias": True, "mlp_bias": True, "vocab_size": 263,
                          "tie_word_embeddings": False}, "F16",
                         ["--bits", "2.5", "--effort", "normal", "--embedding", "4", "--head", "7", "--seed", "1"]),
    "llama-original-4": ({"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96,
                          "num_hidden_layers": 1, "tie_word_embeddings": False}, "F32",
                         ["--bits", "4", "--effort", "best", "--embedding", "original", "--head", "original"]),
    "qwen3-5.5": ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": 1}, "BF16",
                  ["--bits", "5.5", "--effort", "normal", "--head", "8"]),
    "gemma3-2": ({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "tie_word_embeddings": None, "head_dim": 36,
                  "num_attention_heads": 3, "hidden_size": 66}, "F16", ["--bits", "2", "--effort", "best", "--head", "3"]),
    "llama-precision-3": ({"num_hidden_layers": 1, "num_key_value_heads": 5}, "BF16", ["--bits", "3", "--effort", "fast"]),
    "llama-gptq-3": ({"num_hidden_layers": 1}, "BF16", ["--bits", "3", "--effort", "fast", "--method", "gptq"]),
    "llama-quip-3": ({"num_hidden_layers": 1, "head_dim": 16, "intermediate_size": 96}, "BF16",
                     ["--bits", "3", "--effort", "fast", "--method", "quip"]),
    "llama-quip-4": ({"num_hidden_layers": 1, "head_dim": 16, "intermediate_size": 112, "hidden_size": 72}, "BF16",
                     ["--bits", "4", "--effort", "fast", "--method", "quip"]),
    "llama-awq-4": ({"num_hidden_layers": 1, "num_key_value_heads": 5, "attention_bias": True}, "F16",
                    ["--bits", "4", "--effort", "fast", "--method", "awq", "--group", "32"]),
    "llama-quip-tuned-2": ({"num_hidden_layers": 1, "head_dim": 16, "intermediate_size": 96}, "BF16",
                           ["--bits", "2", "--effort", "fast", "--method", "quip", "--calibrate", "on", "--tune", "on"]),
    # Ranges of one bit beside others, by a file of rates.
    "llama-mixed-2": ({"num_hidden_layers": 1, "num_key_value_heads": 5}, "BF16", ["--effort", "normal", "--rates", "RATES"]),
}


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def write_tokenizer(directory, size):
    characters = byte_characters()
    vocabulary = {characters[b]: b for b in range(256)}
    added = [{"id": i, "content": f"<special {i}>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i in range(256, size)]
    vocabulary.update({entry["content"]: entry["id"] for entry in added})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))


def tensor_shapes(config):
    h, i, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    kind = config["model_type"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], h), "model.norm.weight": (h,)}
    if config.get("tie_word_embeddings") is False:
        shapes["lm_head.weight"] = (config["vocab_size"], h)
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        linears = {"self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q),
                   "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)}
        for name, shape in linears.items():
            shapes[p + name + ".weight"] = shape
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                shapes[p + name + ".bias"] = shape[:1]
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        shapes.update({f"{p}{norm}.weight": (h,) for norm in norms})
        if kind != "llama":
            shapes.update({f"{p}self_attn.{norm}.weight": (d,) for norm in ("q_norm", "k_norm")})
    return shapes


def random_values(name, shape, rng):
    if "norm" in name:
        return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    values = rng.standard_normal(shape) * rng.uniform(0.5, 1.5, shape[:1] + (1,) * (len(shape) - 1)) / np.sqrt(shape[-1])
    if name.endswith("layers.0.self_attn.q_proj.weight"):
        values[7] = 0  # a row of zeros: its scale is 0
    return values.astype(np.float32)


def to_bytes(values, dtype):
    if dtype == "BF16":
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def write_model(directory, config, dtype, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(directory, config["vocab_size"])
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        tensors[name] = (dtype, shape, to_bytes(random_values(name, shape, rng), dtype))
    write_safetensors(directory / "model.safetensors", tensors)


# Written here, bit for bit at random: what tq quantize does not make. Stacks of experts, every rate, a ring shorter than its window.
RANDOM = {"mixture-random-bits": {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 20,
                                  "intermediate_size": 44, "moe_intermediate_size": 36, "num_experts": 3, "num_experts_per_tok": 2,
                                  "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10,
                                  "vocab_size": 101, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}}
WINDOWS = {2: 24, 3: 12, 4: 4, 5: 17, 6: 6, 7: 11, 8: 8}


def random_linear(name, shape, fixed_rate, rng):
    experts, rows, columns = (1,) * (3 - len(shape)) + shape
    rates = rng.integers(2, 9, (experts, -(-rows // 32))).astype(np.uint8)
    if fixed_rate:
        rates[:] = fixed_rate
    size = sum(decode.line_bytes(rates[e], rows, columns)[1] for e in range(experts))
    bits = rng.integers(0, 256, size).astype(np.uint8)  # the padding too: readers ignore it
    scales = rng.uniform(-2, 2, experts * rows).astype("<f2")
    scales[0] = 6e-7  # subnormal
    return {name + ".bits": ("U8", bits.shape, bits.tobytes()), name + ".row_scale": ("F16", scales.shape, scales.tobytes()),
            name + ".rates": ("U8", (rates.size,), rates.tobytes())}


def random_arrays(config, linears, rng):
    h, layer = config["hidden_size"], "model.layers.0."
    arrays = {f"taps.{k}.{w}": ("F32", (w,), rng.standard_normal(w).astype("<f4").tobytes()) for k, w in WINDOWS.items()}
    for norm, size in (("model.norm", h), (layer + "input_layernorm", h), (layer + "post_attention_layernorm", h),
                       (layer + "self_attn.q_norm", 10), (layer + "self_attn.k_norm", 10)):
        arrays[norm + ".weight"] = ("BF16", (size,), to_bytes(rng.standard_normal(size).astype(np.float32), "BF16"))
    arrays[layer + "mlp.gate.weight"] = ("F64", (3, h), rng.standard_normal((3, h)).astype("<f8").tobytes())
    for name, (shape, tap) in linears.items():
        if "mlp." in name and "experts" not in name or "qkv" in name or "block_sparse" in name:
            continue
        arrays.update(random_linear(name, shape, 2 if "v_proj" in name else 0, rng))
        arrays[tap + ".sign"] = ("U8", (-(-shape[-1] // 8),), rng.integers(0, 256, -(-shape[-1] // 8)).astype(np.uint8).tobytes())
    return dict(sorted(arrays.items(), key=lambda item: -decode.DTYPES[item[1][0]]))


def make_random(name, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    target = folder_of(name) / name
    target.mkdir(parents=True, exist_ok=True)
    settings = {"quant_method": "turboquant", "format": 1, "hadamard_block": decode.HADAMARD_BLOCK}
    (target / "config.json").write_text(json.dumps({**RANDOM[name], "quantization_config": settings}, indent=2) + "\n")
    linears = decode.Config(str(target)).linears()
    write_safetensors(target / "model.safetensors", random_arrays(RANDOM[name], linears, rng))
    hashed = decode.xxh3(np.fromfile(target / "model.safetensors", np.uint8))
    (target / "turboquant.json").write_text(json.dumps({"format": 1, "files": {"model.safetensors": hashed}}, indent=2) + "\n")


def write_expected(name):
    artifact = decode.Artifact(str(folder_of(name) / name))
    expected = {tensor: decode.summary(artifact.decode(tensor)) for tensor in artifact.names()}
    for tensor, golden in expected.items():
        if tensor.removesuffix("weight") + "vectors" in artifact.tensors:  # defined up to rounding: the largest value sets the tolerance
            golden["near"] = float(np.abs(artifact.decode(tensor)).max())
    lines = ",\n".join(f" {json.dumps(tensor)}: {json.dumps(value)}" for tensor, value in expected.items())
    (folder_of(name) / f"{name}.expected.json").write_text("{\n" + lines + "\n}\n")
    print(f"{name}: {sum(entry.stat().st_size for entry in (folder_of(name) / name).iterdir())} bytes")


def make(program, name, seed, folder):
    changes, dtype, arguments = CASES[name]
    config = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    write_model(folder / name, config, dtype, seed)
    target = folder_of(name) / name
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    rates = folder / "rates.json"
    rates.write_text(json.dumps({"model.layers.0.self_attn.q_proj": 1.4, "model.layers.0.mlp.down_proj": 1, "*": 3}))
    arguments = [str(rates) if each == "RATES" else each for each in arguments]
    subprocess.run([program, "quantize", str(folder / name), "-o", str(target), "--calibration-tokens", "2048", *arguments], check=True)


def main():
    program, names = os.path.abspath(sys.argv[1]), sys.argv[2:] or [*CASES, *RANDOM]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name in RANDOM:
                make_random(name, 100)
            else:
                make(program, name, list(CASES).index(name), pathlib.Path(folder))
            write_expected(name)


if __name__ == "__main__":
    main()
