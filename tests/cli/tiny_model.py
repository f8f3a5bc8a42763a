"""A seeded Llama (or mixture of experts) of some thousand weights as a Hugging Face directory, and how the tests call the program.
Standard library only."""

import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

TQ = os.environ.get("TQ") or str(pathlib.Path(__file__).resolve().parents[2] / "build" / "release" / "tq")
DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
VOCABULARY, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 257, 64, 172, 4, 2, 24, 128
EXPERTS, EXPERT_WIDTH = 3, 44
EIGHTS = 168  # a width that E8P can take
# Under sanitizers the program is some ten times slower.
QUANTIZE = ["--effort", "fast", "--calibration-tokens", "1024"]


def byte_letters():
    """The letters that byte-level BPE writes bytes with (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


def write_tokenizer(folder):
    letters = byte_letters()
    vocabulary = {letters[byte]: byte for byte in range(256)}
    end = {"id": 256, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary | {"<|end|>": 256}, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}))


def shapes(layers, kind):
    is_mixture, is_gemma = kind == "mixture", kind == "gemma"
    kv_heads = HEADS if is_gemma else KV_HEADS  # gemma: one value to a query head
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", (HIDDEN,)
        yield name + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield name + "self_attn.k_proj.weight", (kv_heads * HEAD_DIM, HIDDEN)
        yield name + "self_attn.v_proj.weight", (kv_heads * HEAD_DIM, HIDDEN)
        yield name + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield name + "post_attention_layernorm.weight", (HIDDEN,)
        if is_mixture or is_gemma:
            yield name + "self_attn.q_norm.weight", (HEAD_DIM,)
            yield name + "self_attn.k_norm.weight", (HEAD_DIM,)
        if is_gemma:
            yield name + "pre_feedforward_layernorm.weight", (HIDDEN,)
            yield name + "post_feedforward_layernorm.weight", (HIDDEN,)
        if is_mixture:
            yield name + "mlp.gate.weight", (EXPERTS, HIDDEN)
        width = EXPERT_WIDTH if is_mixture else EIGHTS if kind == "eights" else INTERMEDIATE
        for mlp in [f"mlp.experts.{e}." for e in range(EXPERTS)] if is_mixture else ["mlp."]:
            yield name + mlp + "gate_proj.weight", (width, HIDDEN)
            yield name + mlp + "up_proj.weight", (width, HIDDEN)
            yield name + mlp + "down_proj.weight", (HIDDEN, width)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_weights(folder, layers, kind):
    generator, header, data = random.Random(1), {}, bytearray()
    norm = 0.25 if kind == "gemma" else 1.0  # Gemma stores the weight less 1
    for name, shape in shapes(layers, kind):
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = [generator.gauss(0, shape[1] ** -0.5) if len(shape) == 2 else norm for _ in range(count)]
        if kind == "poor" and name == "model.embed_tokens.weight":  # all tokens are the same
            values = values[:HIDDEN] * VOCABULARY
        if kind == "poor" and name.endswith("input_layernorm.weight"):
            values[5] = values[40] = 0.0
        if name.endswith("mlp.gate.weight"):  # v, -v and 0: one of the first two always wins, the third expert never sees a token
            values = values[:HIDDEN] + [-value for value in values[:HIDDEN]] + [0.0] * HIDDEN
        halves = b"".join(struct.pack("<f", value)[2:] for value in values)  # BF16, rounded towards zero
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [len(data), len(data) + len(halves)]}
        data += halves
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_model(folder, layers=3, kind="llama"):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "hidden_act": "silu", "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": 256,
    }  # fmt: skip
    if kind == "eights":
        config["intermediate_size"] = EIGHTS
    if kind == "gemma":
        config |= {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_key_value_heads": HEADS,
                   "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": HEAD_DIM, "sliding_window": 64}  # fmt: skip
    if kind == "mixture":
        config |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": EXPERTS, "num_experts_per_tok": 1,
                   "moe_intermediate_size": EXPERT_WIDTH, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(folder)
    write_weights(folder, layers, kind)
    return folder


def run(*arguments, **keywords):
    return subprocess.run([TQ, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **keywords)


def contents(folder):
    """Every file below a folder, by its name."""
    folder = pathlib.Path(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class ProgramTest(unittest.TestCase):
    """A temporary folder with one tiny model for the tests of a class."""

    layers, kind = 3, "llama"

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.model = write_model(cls.folder / "model", cls.layers, cls.kind)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def succeeds(self, *arguments, **keywords):
        result = run(*arguments, **keywords)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def fails(self, status, *arguments, says="", **keywords):
        """The status, nothing on standard output, one line on standard error."""
        result = run(*arguments, **keywords)
        self.assertEqual((result.returncode, result.stdout), (status, ""), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertIn(says, result.stderr)
        return result
