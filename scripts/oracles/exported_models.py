#!/usr/bin/env python3
"""Whether transformers loads what `tq convert` writes, and gives the logits of tests/data/families.

    exported_models.py make TQ DIR     the tiny models through `tq convert`, in F32 and BF16 (which holds their weights exactly); needs numpy
    exported_models.py check DIR       needs torch and transformers, on another machine if need be
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "families"
LIMIT = 2e-4  # of the largest logit


def cases():
    return sorted(path.stem for path in DATA.glob("*.json") if path.stem != "gradients")


def splitmix64(n):
    with np.errstate(over="ignore"):
        n = n + np.uint64(0x9E3779B97F4A7C15)
        n = (n ^ (n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        n = (n ^ (n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return n ^ (n >> np.uint64(31))


def value(name, shape, norm_base):
    """As family_models.py makes it."""
    seed = 0xCBF29CE484222325
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
    return out.astype("<f4").reshape(shape)


def write_source(directory, fixture):
    header, data = {}, bytearray()
    for name, shape in fixture["tensors"]:
        values = value(name, shape, fixture["norm_base"]).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (directory / "config.json").write_text(json.dumps(fixture["config"]))


def make(program, out):
    for case in cases():
        fixture = json.loads((DATA / f"{case}.json").read_text())
        with tempfile.TemporaryDirectory() as source:
            write_source(pathlib.Path(source), fixture)
            for dtype in ("f32", "bf16"):
                subprocess.run([program, "convert", source, "-o", str(out / f"{case}-{dtype}"), "--dtype", dtype], check=True)


def check(out):
    import torch
    import transformers

    failures = 0
    for case in cases():
        fixture = json.loads((DATA / f"{case}.json").read_text())
        wanted = np.fromfile(DATA / f"{case}.f32", dtype="<f4").reshape(len(fixture["positions"]), -1)
        for dtype in ("f32", "bf16"):
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                out / f"{case}-{dtype}", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            with torch.no_grad():
                logits = model.eval()(torch.tensor([fixture["tokens"]])).logits[0, fixture["positions"]].numpy()
            error = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
            wrong = {key: sorted(names) for key, names in info.items() if names and key != "error_msgs"}
            print(f"{case}-{dtype}: {error:.1e}", wrong or "", "" if error < LIMIT and not wrong else "WRONG")
            failures += error >= LIMIT or bool(wrong)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        check(pathlib.Path(sys.argv[2]))
