#!/usr/bin/env python3
"""Tests of the reference decoder, docs/reference/decode.py, on the golden artifacts."""
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "reference"))
import decode  # noqa: E402

FOLDER = ROOT / "tests" / "data" / "artifact" / "format-1"
GOLDENS = sorted(entry for entry in FOLDER.parent.glob("format-*/*") if entry.is_dir())
QUERY = "model.layers.0.self_attn.q_proj"


def read_arrays(golden):
    """{name: [dtype, shape, bytes]}"""
    return {name: [t.dtype, list(t.shape), t.data.tobytes()]
            for name, t in decode.read_safetensors(str(FOLDER / golden / "model.safetensors")).items()}


def write_arrays(path, arrays):
    header, offset = {}, 0
    arrays = dict(sorted(arrays.items(), key=lambda item: -decode.DTYPES[item[1][0]]))  # aligned
    for name, (dtype, shape, data) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in arrays.values()))


class Goldens(unittest.TestCase):
    def test_there_are_some(self):
        self.assertGreaterEqual(len(GOLDENS), 5)

    def test_decode_to_what_is_expected(self):
        for name in GOLDENS:
            artifact = decode.Artifact(str(FOLDER / name))
            self.assertGreater(decode.compare(artifact, str(FOLDER / f"{name}.expected.json")), 0)

    def test_have_the_hashes_of_their_record(self):
        for name in GOLDENS:
            self.assertEqual(decode.verify(str(FOLDER / name)), 1)


class Definition(unittest.TestCase):
    """One weight at a time, in float64, by the formulas of format.md."""

    def test_weights_follow_from_single_bits(self):
        artifact = decode.Artifact(str(FOLDER / "llama-tied-3.25"))
        lines = np.frombuffer(artifact.tensors[QUERY + ".bits"].data.tobytes(), np.uint8)
        rates = [int(k) for k in artifact.tensors[QUERY + ".rates"].data]
        scales = artifact.tensors[QUERY + ".row_scale"].data.view("<f2")
        signs = artifact.tensors["model.layers.0.self_attn.input.sign"].data
        rows, columns = 100, 64
        row_rates = [rates[r // 32] for r in range(rows)]
        self.assertEqual(set(rates), {3, 4})

        def bit(p, k):
            line = p // 128 * (columns // 4) + k // 4
            return lines[line * 64 + p % 16 * 4 + k % 4] >> (p % 128 // 16) & 1

        def rotated(r, k):
            newest = sum(row_rates[:r + 1]) - 1
            taps = artifact.taps[row_rates[r]].astype(np.float64)
            return float(scales[r]) * sum(c if bit((newest - j) % sum(row_rates), k) else -c for j, c in enumerate(taps))

        values = artifact.decode(QUERY + ".weight")
        for r in (0, 1, 7, 31, 32, 63, 64, 96, 99):
            row = [rotated(r, i) for i in range(columns)]
            for k in (0, 5, 63):
                sign = -1 if signs[k // 8] >> (k % 8) & 1 else 1
                value = sign * sum(w * (-1) ** bin(i & k).count("1") for i, w in enumerate(row)) / 8
                self.assertAlmostEqual(value, float(values[r, k]), places=6)
        self.assertTrue((values[7] == 0).all())


class Shards(unittest.TestCase):
    def test_decode_as_one_file_does(self):
        arrays = read_arrays("llama-untied-2.5")
        names = list(arrays)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            shutil.copy(FOLDER / "llama-untied-2.5" / "config.json", path)
            index = {}
            for i in range(3):
                shard = f"model-{i + 1:05}-of-00003.safetensors"
                mine = names[i::3]
                write_arrays(path / shard, {name: arrays[name] for name in mine})
                index.update({name: shard for name in mine})
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
            self.assertEqual(decode.compare(decode.Artifact(folder), str(FOLDER / "llama-untied-2.5.expected.json")), 35)
            (path / "model-00002-of-00003.safetensors").unlink()
            with self.assertRaisesRegex(decode.FormatError, "model-00002-of-00003"):
                decode.Artifact(folder)


class Damaged(unittest.TestCase):
    def refuse(self, pattern, edit=None, settings=None, text=None):
        """The error of a copy of a golden artifact: arrays edited, settings of quantization_config changed, or its bytes replaced."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            config = json.loads((FOLDER / "llama-tied-3.25" / "config.json").read_text())
            config["quantization_config"].update(settings or {})
            (path / "config.json").write_text(json.dumps(config))
            arrays = read_arrays("llama-tied-3.25")
            if edit:
                edit(arrays)
            write_arrays(path / "model.safetensors", arrays)
            if text:
                (path / "model.safetensors").write_bytes(text((path / "model.safetensors").read_bytes()))
            with self.assertRaisesRegex(decode.FormatError, pattern) as raised:
                artifact = decode.Artifact(folder)
                for name in artifact.names():
                    artifact.decode(name)
            self.assertNotIn("\n", str(raised.exception))

    def test_files(self):
        self.refuse("model.safetensors", text=lambda t: t[:-1])
        self.refuse("model.safetensors", text=lambda t: t[:1000])
        self.refuse("model.safetensors", text=lambda t: b"")
        self.refuse("offsets", text=lambda t: t.replace(b"[0, ", b"[1, ", 1))

    def test_settings(self):
        for version in (4, 0, "1", None):
            self.refuse("format", settings={"format": version})
        self.refuse("hadamard_block", settings={"hadamard_block": 128})
        self.refuse("not a TurboQuant artifact", settings={"quant_method": "gptq"})

    def refuse_as_older(self, golden, version, says):
        """A golden artifact is read whole, and refused where it claims an older format."""
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "copy"
            shutil.copytree(FOLDER.parent / golden, copy)
            self.read_whole(copy)
            config = json.loads((copy / "config.json").read_text())
            config["quantization_config"]["format"] = version
            (copy / "config.json").write_text(json.dumps(config))
            with self.assertRaisesRegex(decode.FormatError, says):
                self.read_whole(copy)

    @staticmethod
    def read_whole(folder):
        artifact = decode.Artifact(str(folder))
        for name in artifact.names():
            artifact.decode(name)

    def test_row_scales_of_vectors_are_of_format_2(self):
        self.refuse_as_older("format-2/llama-quip-tuned-2", 1, "row_scale.*format 2")

    def test_one_bit_is_of_format_3(self):
        self.refuse_as_older("format-3/llama-mixed-2", 2, "one bit.*format 3")

    def test_precision_of_the_input(self):
        name = QUERY + ".activation_bits"
        for array in (["U8", [1], b"\x09"], ["U8", [2], b"\x08\x08"], ["F16", [1], b"\x00\x00"]):
            self.refuse(name, lambda arrays, array=array: arrays.update({name: array}))

    def test_parts(self):
        for part in ("bits", "row_scale", "rates"):
            name = f"{QUERY}.{part}"

            def shorten(arrays):
                size = decode.DTYPES[arrays[name][0]]
                arrays[name] = [arrays[name][0], [arrays[name][1][0] - 1], arrays[name][2][:-size]]
            self.refuse(name, edit=shorten)
        for name in (QUERY + ".row_scale", "model.layers.0.self_attn.input.sign", "lm_head.sign"):
            self.refuse(f"{name} is missing", edit=lambda arrays: arrays.pop(name))
        self.refuse("no tap table", edit=lambda arrays: arrays.pop("taps.3.9"))
        self.refuse("embed_tokens", edit=lambda arrays: arrays.pop("model.embed_tokens.bits"))

    def test_values(self):
        def put(name, index, data):
            def edit(arrays):
                old = arrays[name][2]
                arrays[name][2] = old[:index] + data + old[index + len(data):]
            return edit
        for rate in (0, 9):
            self.refuse("outside 1 to 8", edit=put(QUERY + ".rates", 2, bytes([rate])))
        self.refuse("scale of row 99 is not finite", edit=put(QUERY + ".row_scale", 198, b"\x00\x7e"))
        self.refuse("not finite", edit=put("taps.4.10", 0, b"\x00\x00\xc0\x7f"))


if __name__ == "__main__":
    unittest.main()
