#!/usr/bin/env python3
"""Makes tests/data/families/gradients.json: the gradients that torch's autograd gives the tiny models of family_models.py.

For each model: the sum of the next-token losses over the first tokens of its fixture, and for each tensor of its files the gradient's
norm and its dot product with probe(). Made with torch 2.11.0 (CPU, float64, mixtures float32, eager attention) and transformers 5.17.0.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open

import family_models as families

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else families.DATA) / "gradients.json"


def probe(name, shape):
    """Multiples of 1/128 in [-1, 1), from the tensor's name."""
    seed = 0xCBF29CE484222325
    for byte in (name + "#probe").encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        bits = families.splitmix64(np.uint64(seed) + np.arange(int(np.prod(shape)), dtype=np.uint64))
    return ((bits >> np.uint64(56)).astype(np.int64) - 128).reshape(shape) / 128.0


def gradients(case):
    fixture = json.loads((families.DATA / f"{case}.json").read_text())
    tokens = fixture["tokens"][: 36 if case == "phi3" else 18]
    with tempfile.TemporaryDirectory() as directory:
        families.build_config(case).save_pretrained(directory)
        pathlib.Path(directory, "config.json").write_text(json.dumps(fixture["config"]))
        families.fill(directory, fixture["tensors"], fixture["norm_base"])
        dtype = torch.float32 if "experts" in str(fixture["tensors"]) else torch.float64  # torch multiplies no stacks in float64
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
        logits = model(torch.tensor([tokens])).logits[0, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum")
        loss.backward()
        with torch.no_grad():  # saved as weights are, so that names and stacks are those of files
            for parameter in model.parameters():
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        out = {}
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            for file in pathlib.Path(saved).glob("*.safetensors"):
                with safe_open(str(file), "pt") as archive:
                    for name in archive.keys():
                        gradient = archive.get_tensor(name).double().numpy()
                        out[name] = [float(np.linalg.norm(gradient)), float((gradient * probe(name, gradient.shape)).sum())]
    print(case, len(tokens), "tokens, loss", float(loss))
    return {"tokens": len(tokens), "loss": float(loss), "tensors": dict(sorted(out.items()))}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    result = {case: gradients(case) for case in families.CASES}
    OUT.write_text(json.dumps(result, separators=(",", ":")) + "\n")
