#!/usr/bin/env python3
"""Makes tests/data/tokenizers/published.json: llama.cpp's published test strings and their ids, with as much of each vocabulary as they need.

    published_ids.py FOLDER     of llama.cpp's models/ggml-vocab-*.gguf{,.inp,.out} (llamacpp-vocab/), gpt2/{vocab.json,merges.txt} and
                                qwen3/tokenizer.json.gz, whose vocabulary is Qwen2's
A token that occurs in no test string can be in no merge of one, so that the cut vocabulary gives the ids of the whole.
Tested with gguf 0.19.
"""

import gzip
import json
import pathlib
import sys

import gguf

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "tokenizers" / "published.json"


def byte_letters():
    """The letters that byte-level BPE writes bytes with (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


def byte_level(pre, vocabulary, merges, texts):
    letters = byte_letters()
    written = "\n".join("".join(letters[byte] for byte in text.encode()) for text in texts)
    kept = {token: number for token, number in vocabulary.items() if len(token) == 1 or token in written}
    return {"pre": pre, "tokens": kept, "merges": [merge for merge in merges if merge.replace(" ", "", 1) in kept]}


def sentencepiece(path, texts):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    scores = fields["tokenizer.ggml.scores"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    written = "\n".join("\u2581" + text.replace(" ", "\u2581") for text in texts)
    kept = [i for i, token in enumerate(tokens) if kinds[i] != 1 or len(token) == 1 and token in written or token in written]
    return {"tokens": {tokens[i]: i for i in kept}, "scores": [scores[i] for i in kept], "kinds": [kinds[i] for i in kept]}


def main():
    folder = pathlib.Path(sys.argv[1])
    stem = str(folder / "llamacpp-vocab" / "ggml-vocab-")
    texts = pathlib.Path(stem + "gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")

    def ids(name):
        return [[int(number) for number in line.split()] for line in pathlib.Path(stem + name + ".gguf.out").read_text().split("\n")]

    def merges_of(path):
        return [line for line in path.read_text().split("\n") if line and not line.startswith("#version")]

    qwen = json.loads(gzip.open(folder / "qwen3" / "tokenizer.json.gz").read())["model"]
    qwen_merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in qwen["merges"]]
    gpt2 = json.loads((folder / "gpt2" / "vocab.json").read_text())
    vocabularies = {
        "gpt-2": byte_level("gpt-2", gpt2, merges_of(folder / "gpt2" / "merges.txt"), texts) | {"ids": ids("gpt-2")},
        "qwen2": byte_level("qwen2", qwen["vocab"], qwen_merges, texts) | {"ids": ids("qwen2")},
        "phi-3": sentencepiece(stem + "phi-3.gguf", texts) | {"ids": ids("phi-3")},
    }
    OUT.write_text(json.dumps({"texts": texts, "vocabularies": vocabularies}, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
