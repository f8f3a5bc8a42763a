#!/usr/bin/env python3
"""Makes tests/data/families: seeded tiny models of every family with the logits that transformers gives them.

    family_models.py        CASE.json (configuration, tensor names and shapes, tokens) and CASE.f32 (logits [positions, vocabulary])
    family_models.py --v4   under transformers v4: adds its spelling of the configuration, after checking that its logits agree
The weights are not stored: value() makes them from names, and tests/convert/family_fixture.h does the same.
Made with torch 2.9.1 (CPU, float32, eager attention), transformers 5.24.0 and 4.57.3, numpy 2.4.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import save_file, safe_open

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "families"
TOKENS = 48
POSITIONS = [0, 1, 7, 8, 9, 24, 33, 47]

BASE = dict(hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=199,
            max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None)
THETA = 10000.0
# (name, model type, keywords, rope parameters)
CASES = {
    "llama2": ("llama", dict(num_key_value_heads=4), {}),
    "llama3": ("llama", dict(head_dim=24), dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                original_max_position_embeddings=32, rope_theta=500000.0)),
    "llama_bias": ("llama", dict(attention_bias=True, mlp_bias=True), dict(rope_type="linear", factor=4.0)),
    "smollm2": ("llama", dict(hidden_size=60, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True), {}),
    "mistral": ("mistral", dict(sliding_window=8, head_dim=32), {}),
    "qwen2": ("qwen2", dict(hidden_size=100, num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=True), {}),
    "qwen2_window": ("qwen2", dict(use_sliding_window=True, sliding_window=8, max_window_layers=1),
                     dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen3": ("qwen3", dict(head_dim=32), dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=1e6)),
    "gemma3": ("gemma3_text", dict(hidden_size=80, head_dim=32, num_hidden_layers=4, sliding_window=8, query_pre_attn_scalar=24,
                                   tie_word_embeddings=True, layer_types=["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]),
               {"sliding_attention": dict(rope_type="default", rope_theta=1e4),
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6)}),
    "phi3": ("phi3", dict(original_max_position_embeddings=32),
             dict(rope_type="longrope", short_factor=[1.0 + 0.05 * i for i in range(8)], long_factor=[1.5 + 0.7 * i for i in range(8)])),
    "phi3_short": ("phi3", dict(original_max_position_embeddings=64, sliding_window=8, partial_rotary_factor=0.75),
                   dict(rope_type="longrope", short_factor=[1.0 + 0.05 * i for i in range(6)],
                        long_factor=[1.5 + 0.7 * i for i in range(6)])),
    "mixtral": ("mixtral", dict(intermediate_size=68, num_local_experts=5, num_experts_per_tok=2), {}),
    "qwen3_moe": ("qwen3_moe", dict(head_dim=24, moe_intermediate_size=44, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True,
                                    mlp_only_layers=[0]), {}),
}


def splitmix64(n):
    with np.errstate(over="ignore"):
        n = n + np.uint64(0x9E3779B97F4A7C15)
        n = (n ^ (n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        n = (n ^ (n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return n ^ (n >> np.uint64(31))


def value(name, shape, norm_base):
    """Multiples of a power of two by one signed byte: the same in F32, F16 and BF16."""
    seed = 0xCBF29CE484222325  # FNV-1a
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        bits = splitmix64(np.uint64(seed) + np.arange(int(np.prod(shape)), dtype=np.uint64))
    k = (bits >> np.uint64(56)).astype(np.int64) - 128
    if "norm" in name:
        out = norm_base + (k >> 2) / 128.0
    elif name.endswith(".bias"):
        out = k / 256.0
    elif "embed_tokens" in name:
        out = k / 64.0
    else:
        out = k / 2.0 ** (6 + int(shape[-1]).bit_length() // 2)
    return torch.from_numpy(out.astype(np.float32).reshape(shape))


def build_config(case):
    kind, keywords, rope = CASES[case]
    arguments = {**BASE, **keywords}
    if transformers.__version__.startswith("5"):
        if kind != "gemma3_text":
            rope = {"rope_type": "default", "rope_theta": THETA, **rope}
        if "partial_rotary_factor" in arguments:
            rope["partial_rotary_factor"] = arguments.pop("partial_rotary_factor")
        if "original_max_position_embeddings" in arguments:
            rope["original_max_position_embeddings"] = arguments["original_max_position_embeddings"]
        arguments["rope_parameters"] = rope
    elif kind == "gemma3_text":
        arguments["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        arguments["rope_theta"] = rope["full_attention"]["rope_theta"]
        arguments["rope_scaling"] = {key: rope["full_attention"][key] for key in ("rope_type", "factor")}
    else:
        arguments["rope_theta"] = rope.get("rope_theta", THETA)
        if rope:
            arguments["rope_scaling"] = {key: item for key, item in rope.items() if key != "rope_theta"}
            if kind == "phi3":
                arguments["rope_scaling"]["type"] = arguments["rope_scaling"].pop("rope_type")
    return transformers.AutoConfig.for_model(kind, **arguments)


def logits_of(directory, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, POSITIONS].numpy().astype("<f4")


def fill(directory, tensors, norm_base):
    for file in pathlib.Path(directory).glob("*.safetensors"):
        file.unlink()
    save_file({name: value(name, shape, norm_base) for name, shape in tensors}, directory + "/model.safetensors", metadata={"format": "pt"})


def make(case):
    config = build_config(case)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    norm_base = 0.0 if config.model_type == "gemma3_text" else 1.0
    tokens = [int(bits % 199) for bits in splitmix64(np.arange(TOKENS, dtype=np.uint64) + np.uint64(len(case)))]
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        tensors = []
        with safe_open(directory + "/model.safetensors", "pt") as file:
            for name in sorted(file.keys()):
                tensors.append((name, list(file.get_slice(name).get_shape())))
        fill(directory, tensors, norm_base)
        logits = logits_of(directory, tokens)
        fixture = {"config": json.loads(pathlib.Path(directory, "config.json").read_text()), "norm_base": norm_base, "tensors": tensors,
                   "tokens": tokens, "positions": POSITIONS}
    (DATA / f"{case}.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
    (DATA / f"{case}.f32").write_bytes(logits.tobytes())
    print(case, "logits", float(np.abs(logits).max()), "tensors", len(tensors))


def add_v4(case):
    fixture = json.loads((DATA / f"{case}.json").read_text())
    with tempfile.TemporaryDirectory() as directory:
        config = build_config(case)
        config.architectures = fixture["config"]["architectures"]
        config.dtype = torch.float32
        config.save_pretrained(directory)
        fill(directory, fixture["tensors"], fixture["norm_base"])
        logits = logits_of(directory, fixture["tokens"])
        text = json.loads(pathlib.Path(directory, "config.json").read_text())
    stored = np.fromfile(DATA / f"{case}.f32", dtype="<f4").reshape(logits.shape)
    print(case, "v4 against v5", float(np.abs(stored - logits).max() / np.abs(stored).max()))
    text["torch_dtype"] = text.pop("dtype", "float32")
    fixture["config_v4"] = text
    (DATA / f"{case}.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    for each in CASES:
        (add_v4 if "--v4" in sys.argv else make)(each)
