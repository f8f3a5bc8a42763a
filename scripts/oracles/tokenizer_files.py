#!/usr/bin/env python3
"""Makes tests/data/tokenizers: tiny tokenizers of every kind, and what the PyPI packages tokenizers and sentencepiece make of awkward texts.

    NAME/tokenizer.json, NAME/tokenizer.model   trained here on the text below
    expected.json                               texts; ids and decoded texts by NAME; "pre": the GGUF name of the same pre-tokenizer
The trainers break ties as they like, so that a new run makes other tokenizers, as good as these.
Tested with tokenizers 0.23.3 and sentencepiece 0.2.3.
"""

import base64
import io
import json
import pathlib
import shutil

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD, BertNormalizer, Lowercase, Precompiled, Prepend, Replace, Strip, StripAccents
from tokenizers.pre_tokenizers import (
    BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, Metaspace, Punctuation, Split, Whitespace, WhitespaceSplit,
)  # fmt: skip

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "tokenizers"
CORPUS = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind. It's 12 o'clock; they've 1234567 reasons.
def main(argc, argv):\n    for i in range(100):\n        print(f"{i:3d} -> {i ** 2}")\n\treturn 0
Die Straße führt über Köln nach München. Où est la bibliothèque? ¿Dónde está el niño? Не знаю, что сказать.
我喜欢学习机器学习，今天天气很好。 日本語のテキストです。カタカナ。 한국어 문장입니다. हिन्दी में लिखा हुआ पाठ। สวัสดีชาวโลก
WE'RE SHOUTING NOW! camelCaseWords and snake_case_words, HTTPServer2Go. 3.14159 + 2.71828 = 5.85987 (approximately).
""".splitlines(keepends=True) * 4
TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\t\n  \n", "Hello", " Hello", "Hello world", "  Hello  world  ", "Hello\nworld\n",
    "The quick brown fox doesn't jump; they'RE WE'LL I'd it's", "'s 'S ’s don’t", "1", "12", "123", "1234", "12345", "123456", "1234567",
    "in 2024, 3.14 and 1,000,000", "x=1;y=22;z=333", "Ⅷ ½ ² ٣ १२३ 四", "camelCaseWords HTTPServer2Go ABCdef ÀÉÎ straße ŒUVRE ǅ ǆ",
    "    indented\n        more\n\ttabs\n", "a  b   c    d     e", "trailing   ", "line one  \n  line two", "!!!???...---===", "(a) [b] {c} <d> \"e\" `f`",
    "https://example.com/path?x=1&y=2#z", "/usr/bin /a//b", "$100 + €200 = £300 ± 5% ~ ^ | ` ¬", "我喜欢学习，今天。", "日本語のカタカナ", "한국어 문장", "हिन्दी पाठ। नमस्ते",
    "สวัสดี ភាសា မြန်မာ", "שלום עולם مرحبا", "mixed 中文 and English混合 text", "e\u0301 é e\u0323\u0301 o\u0302\u0303 \u0301 x\u0316\u0301\u0316", "ﬁ ﬀ ① ㎏ Å Ω ｱ Ａ１ ㈱", "İstanbul ISPARTA ß ẞ Σς ΣΑΣ",
    "👍 👩‍👩‍👧 🇩🇪 👋🏽 ❤️ 🏴", "\u00a0nbsp\u2003em\u3000ideographic\u200bzero\u200d\ufeffbom", "\x00nul \x01\x7f \x1b[0m", "\u2028line\u2029para\x85nel\x0bvt\x0cff",
    "<s>hello</s>", "<pad> <mask> <unk>", "a<mask>b <mask> c", "FOO foo Foo barfoo foo.", "<|end|><|end|> x", "▁under ▁▁", "_ __ a_b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "word" * 40, " " * 70, "\n" * 20, "9" * 40, "é" * 30, "中" * 30, "Ä" * 20 + "a" * 20, "\u0301" * 10, "don't've'll 'tis ''s", "a\rb\r\nc", "#include <stdio.h>\n", "<sentinel:12>", "1st 2nd 3rd x2 y10",
]  # fmt: skip

GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
LLAMA3 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}" + "\r\n" + r"]+|\s*" + "[\r\n]+" + r"|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def splits(*patterns, last=None):
    steps = [Split(Regex(pattern), "isolated") if isinstance(pattern, str) else pattern for pattern in patterns]
    return pre_tokenizers.Sequence(steps + [last or ByteLevel(add_prefix_space=False, use_regex=False)])


gpt2 = ByteLevel(add_prefix_space=False, use_regex=True)
# By the GGUF name of the pre-tokenizer.
BYTE_LEVEL = {
    "gpt-2": gpt2,
    "llama-bpe": splits(LLAMA3),
    "qwen2": splits(LLAMA3.replace("{1,3}", "")),
    "gpt-4o": splits(GPT4O),
    "tekken": splits(TEKKEN),
    "kimi-k2": splits(KIMI),
    "deepseek-v3": splits(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3),
    "deepseek-coder": splits("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", Digits(individual_digits=True)),
    "falcon": pre_tokenizers.Sequence([Punctuation("contiguous"), gpt2, Digits(individual_digits=False), Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
    "starcoder": splits(Digits(individual_digits=True), last=gpt2),
    "bloom": splits(BLOOM),
    "viking": splits(BLOOM, Digits(individual_digits=True)),
    "superbpe": splits(r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "bailingmoe": splits(BAILING),
    "seed-coder": splits(SEED),
}  # fmt: skip


def byte_level(pre_tokenizer, normalizer=None, size=340):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def trained(model, trainer, normalizer=None, pre_tokenizer=None, decoder=None):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe_trainer(specials, **more):
    return trainers.BpeTrainer(vocab_size=200 + len(specials), special_tokens=specials, show_progress=False, limit_alphabet=90, **more)


def llama_like(normalizer, pre_tokenizer):
    strip = [decoders.Strip(" ", 1, 0)] if "Prepend" in str(normalizer) or pre_tokenizer else []
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = trained(model, bpe_trainer(["<unk>", "<s>", "</s>"] + BYTES), normalizer, pre_tokenizer, decoder)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]  # the bytes are tokens like others
    return Tokenizer.from_str(json.dumps(data))


def sentencepiece_model(name, **options):
    out, rules = io.BytesIO(), DATA / "rules.tsv"
    lines = ["41 30A\tC5", "FB01\t66 69", "2460\t31", "3000\t20", "A0\t20", "FF21\t41", "65 301\tE9", "A\t20", "9\t20"]
    rules.write_text("\n".join(lines) + "\n")
    custom = {"normalization_rule_tsv": str(rules)} if options.pop("rules", False) else {"normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.rstrip("\n") for line in CORPUS]), model_writer=out, vocab_size=options.pop("vocab_size"), character_coverage=0.98,
        num_threads=1, minloglevel=2, **custom, **options,
    )  # fmt: skip
    rules.unlink()
    folder = DATA / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def charsmap_of(name):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((DATA / name / "tokenizer.model").read_bytes())
    return model.normalizer_spec.precompiled_charsmap


def other_tokenizers():
    both = {"unk_token": "<unk>"}
    unigram = dict(vocab_size=220, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    yield "byte-level-prefix-space", byte_level(ByteLevel(add_prefix_space=True))
    roberta = byte_level(ByteLevel(add_prefix_space=False))
    roberta.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    yield "roberta", roberta
    for form in (NFC, NFD, NFKC, NFKD):
        yield form.__name__.lower(), byte_level(gpt2, form(), 280)
    yield "lowercase-strip", byte_level(gpt2, normalizers.Sequence([Strip(True, True), NFD(), StripAccents(), Lowercase()]), 280)
    added = byte_level(gpt2, Lowercase(), 280)
    added.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("<pad>", rstrip=True, special=True), "<|end|>"])
    added.add_tokens([AddedToken("foo", single_word=True, normalized=True), AddedToken("HTTP", normalized=False), AddedToken("they", normalized=True)])
    yield "added-tokens", added
    yield "llama", llama_like(normalizers.Sequence([Prepend("▁"), Replace(" ", "▁")]), None)
    yield "gemma", llama_like(Replace(" ", "▁"), Split(" ", "merged_with_previous"))
    yield "metaspace-first", llama_like(None, Metaspace(prepend_scheme="first", split=False))
    yield "metaspace-always", llama_like(None, Metaspace())
    yield "unigram", trained(models.Unigram(), trainers.UnigramTrainer(**unigram), NFKC(), Metaspace(), decoders.Metaspace())
    t5 = trained(models.Unigram(), trainers.UnigramTrainer(**unigram), normalizers.Sequence([Precompiled(charsmap_of("spm-unigram-rules")), Replace(Regex(" {2,}"), " ")]), pre_tokenizers.Sequence([WhitespaceSplit(), Metaspace()]), decoders.Metaspace())
    t5.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 2)])
    yield "t5", t5
    bert = trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], limit_alphabet=80, show_progress=False), BertNormalizer(), BertPreTokenizer(), decoders.WordPiece(cleanup=False))
    bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    yield "bert", bert
    cased = BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    yield "bert-cased", trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[UNK]"], limit_alphabet=80, show_progress=False), cased, BertPreTokenizer(), decoders.WordPiece(cleanup=False))
    yield "word-suffix", trained(models.BPE(end_of_word_suffix="</w>", **both), bpe_trainer(["<unk>"], end_of_word_suffix="</w>"), Lowercase(), Whitespace(), decoders.BPEDecoder())
    yield "subword-prefix", trained(models.BPE(continuing_subword_prefix="##", **both), bpe_trainer(["<unk>"], continuing_subword_prefix="##"), None, WhitespaceSplit(), decoders.WordPiece(cleanup=False))
    yield "fused-unknown", trained(models.BPE(fuse_unk=True, **both), bpe_trainer(["<unk>"]), None, Punctuation("merged_with_next"))
    yield "word-level", trained(models.WordLevel(**both), trainers.WordLevelTrainer(vocab_size=80, special_tokens=["<unk>"], show_progress=False), None, pre_tokenizers.Sequence([CharDelimiterSplit("-"), Whitespace(), Digits(individual_digits=False)]))


def facts(tokenizer, **more):
    encoded = [tokenizer.encode(text, add_special_tokens=True).ids for text in TEXTS]
    return {"ids": encoded, "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded], **more}


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    out = {}
    spm = {
        "spm-bpe": dict(model_type="bpe", vocab_size=460, byte_fallback=True, remove_extra_whitespaces=False),
        "spm-bpe-plain": dict(model_type="bpe", vocab_size=200),
        "spm-unigram": dict(model_type="unigram", vocab_size=180, user_defined_symbols=["fox", "<mask>"]),
        "spm-unigram-bytes": dict(model_type="unigram", vocab_size=440, byte_fallback=True, add_dummy_prefix=False),
        "spm-unigram-rules": dict(model_type="unigram", vocab_size=180, rules=True),
    }  # fmt: skip
    for name, options in spm.items():
        processor = sentencepiece_model(name, **options)
        texts = ["" if "\x00" in text else text for text in TEXTS]
        out[name] = {"ids": processor.encode(texts), "decoded": processor.decode(processor.encode(texts))}
    named = [(f"pre-{pre}", byte_level(steps), {"pre": pre}) for pre, steps in BYTE_LEVEL.items()]
    for name, tokenizer, more in named + [(name, tokenizer, {}) for name, tokenizer in other_tokenizers()]:
        (DATA / name).mkdir(parents=True)
        data = json.loads(tokenizer.to_str())
        (DATA / name / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        out[name] = facts(tokenizer, **more)
    text = json.dumps({"texts": TEXTS, "tokenizers": out}, ensure_ascii=True, separators=(",", ":"))
    (DATA / "expected.json").write_text(text.replace('],"', '],\n"').replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
