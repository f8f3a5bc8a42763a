#!/usr/bin/env python3
"""Prints quickstart's table: original, 4 bit, 3 bit.

    quickstart_table.py INSPECT EVAL BENCH      INSPECT: three JSON objects of `tq inspect --json` in a row
"""

import json
import sys


def objects(text):
    decoder, at, found = json.JSONDecoder(), 0, []
    while text[at:].strip():
        while text[at].isspace():
            at += 1
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def megabytes(count):
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def main():
    inspected = objects(open(sys.argv[1]).read())
    evaluated = json.load(open(sys.argv[2]))["models"]
    bench = json.load(open(sys.argv[3]))
    speeds = bench["results"]
    texts = [[text for text in model["texts"]] for model in evaluated]

    rows = [("", "original", "4 bit", "3 bit")]

    def add(name, values):
        rows.append((name, *values))

    add("weight files", [megabytes(model["file_bytes"]) for model in inspected])
    add("  in 16 bits it would take", [megabytes(2 * model["weights"]) for model in inspected])
    add("bits a weight, linears", [f"{8 * model['bytes_linears'] / model['weights_linears']:.3f}" for model in inspected])
    add("bits a weight, all", [f"{8 * model['bytes'] / model['weights']:.3f}" for model in inspected])
    for index, first in enumerate(texts[0]):
        pair = [model[index] for model in texts]
        add(f"perplexity, {first['name']}", [f"{first['ppl_original']:.2f}"] + [f"{each['ppl']:.2f}" for each in pair])
        add("  KL to the original", ["0"] + [f"{each['kl']['mean']:.4f} ± " + ("-" if each["kl"]["stderr"] is None else f"{each['kl']['stderr']:.4f}") for each in pair])
        add("  same first token", ["100 %"] + [f"{100 * each['top1']:.1f} %" for each in pair])
    add(f"prompt of {bench['prompt_tokens']}, tokens/s", [f"{each['prompt_tokens_per_second']:.0f}" for each in speeds])
    add("decode, tokens/s", [f"{each['decode_tokens_per_second']:.0f}" for each in speeds])

    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for index, row in enumerate(rows):
        print("  " + row[0].ljust(widths[0]) + "".join("   " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:])))
        if index == 0:
            print("  " + "-" * (sum(widths) + 9))
    tokens = evaluated[0]["texts"][0]["tokens"]
    print(f"\n  Texts: {len(texts[0])}, {tokens} scored tokens each at most: a first impression, not a benchmark.")
    stored = 8 * inspected[0]["bytes_linears"] / inspected[0]["weights_linears"]
    if stored < 12:
        print(f"  The original is itself quantized, to {stored:.1f} bits a weight (SmolLM2's file holds 4-bit codes), so a part of the way down")
        print("  was gone before; KL and agreement are to that file. For a 16-bit source: ./quickstart --model PATH")
    print(f"  {bench['processor']}, {bench['threads']} threads, build {bench['build']}.")


if __name__ == "__main__":
    main()
