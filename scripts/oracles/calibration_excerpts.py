#!/usr/bin/env python3
"""Makes texts of data/calibration: web.txt and code.txt from exllamav3's standard calibration data (c4.utf8, code.utf8), arithmetic.txt from
GSM8K's training questions, functions.txt from TheAlgorithms/Python (functions.txt as it is: commit f5988cc09713315817df6a7e327e258013a94440).

usage: calibration_excerpts.py C4 CODE GSM8K_TRAIN GSM8K_TEST ALGORITHMS HUMANEVAL

Of the first two only the first 900,000 bytes are used, and no line of 13 words that occur in the rest, so that the rest can be evaluated on.
Of GSM8K every 30th training question behind the first five, which are the examples of the task, none of which has 13 words of a test question.
ALGORITHMS is a folder, HUMANEVAL a .jsonl.gz; of its functions with docstrings some are drawn, none of which has 13 words of HumanEval's problems.
"""

import ast
import gzip
import json
import random
import re
import sys
from pathlib import Path

HEAD = 900_000
STRETCHES = 6
OUT = Path(__file__).resolve().parents[2] / "data" / "calibration"


def grams(text: str) -> set:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}


def excerpt(source: Path, size: int) -> str:
    data = source.read_bytes()
    head, rest = data[:HEAD].decode(errors="ignore"), grams(data[HEAD:].decode(errors="ignore"))
    lines = head.split("\n")[:-1]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)
    out, at = [], 0
    for stretch in range(STRETCHES):
        taken = 0
        at = max(at, next(i for i, start in enumerate(starts) if start >= stretch * HEAD // STRETCHES))
        while taken < size // STRETCHES and at < len(lines):
            before = "\n".join(out[-50:])[-2000:]  # what the line follows: words in common may span lines
            if not grams(before + "\n" + lines[at]) & rest:
                out.append(lines[at])
                taken += len(lines[at].encode()) + 1
            at += 1
    text = "\n".join(out) + "\n"
    assert not grams(text) & rest, "words in common remain"
    return text


def arithmetic(train: Path, test: Path, size: int) -> str:
    examples = [json.loads(line) for line in train.read_text().splitlines()]
    asked = set()
    for line in test.read_text().splitlines():
        example = json.loads(line)
        asked |= grams(example["question"] + "\n" + example["answer"])
    out = ""
    for example in examples[5::30]:
        text = f"Question: {example['question']}\nAnswer: {example['answer']}\n\n"
        if len(out) <= size and not grams(text) & asked:
            out += text
    return out


def documented_functions(folder: Path):
    for path in sorted(folder.rglob("*.py"), key=lambda path: str(path.relative_to(folder))):
        text = path.read_text(encoding="utf-8")
        lines = text.split("\n")
        try:
            tree = ast.parse(text, feature_version=(3, 11))
        except SyntaxError:  # written for a later Python
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def functions(folder: Path, human_eval: Path, size: int) -> str:
    asked = set()
    for line in gzip.open(human_eval, "rt", encoding="utf-8"):
        item = json.loads(line)
        asked |= grams(item["prompt"] + item["canonical_solution"] + item["test"])
    found = [text for text in documented_functions(folder) if 200 < len(text) < 3000 and not grams(text) & asked]
    random.Random(1).shuffle(found)
    out = ""
    for text in found:
        if len(out) + len(text) + 3 > size:
            break
        out += text + "\n\n\n"
    return out


def main() -> None:
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    for path, name, size in ((sys.argv[1], "web", 402_000), (sys.argv[2], "code", 880_000)):
        (OUT / f"{name}.txt").write_text(excerpt(Path(path), size))
    (OUT / "arithmetic.txt").write_text(arithmetic(Path(sys.argv[3]), Path(sys.argv[4]), 130_000))
    (OUT / "functions.txt").write_text(functions(Path(sys.argv[5]), Path(sys.argv[6]), 600_000))


if __name__ == "__main__":
    main()
