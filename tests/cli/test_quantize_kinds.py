"""Artifacts of other methods and models: QuIP# with fine-tuning, mixtures, poor inputs, Gemma."""

import json
import random
import shutil
import subprocess
import time
import unittest

from tiny_model import QUANTIZE, TQ, ProgramTest, contents


class QuantizeByQuip(ProgramTest):
    layers, kind = 2, "eights"

    def test_tuning_makes_the_planned_bytes_after_kills_and_loses_less(self):
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        command = ["--bits", "2", "--method", "quip", "--head", "original", "--embedding", "original", *QUANTIZE]
        tuned = [*command, "--calibrate", "on", "--tune", "on", "--calibrate-steps", "8", "--tune-steps", "8"]
        plan = json.loads(self.succeeds("quantize", self.model, "-o", self.folder / "dry", *tuned, "--dry-run", "--json").stdout)
        plain, whole, killed = (self.folder / name for name in ("plain", "whole", "killed"))
        self.succeeds("quantize", self.model, "-o", plain, *command)
        start = time.monotonic()
        self.succeeds("quantize", self.model, "-o", whole, *tuned)
        duration = time.monotonic() - start
        self.assertEqual(plan["bytes"], sum(map(len, contents(whole).values())))
        generator = random.Random(8)
        for attempt in range(3):
            process = subprocess.Popen([TQ, "quantize", str(self.model), "-o", str(killed), *tuned, "--resume"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)  # fmt: skip
            time.sleep(generator.uniform(0.1, 0.9) * duration)
            process.kill()
            process.wait()
            if killed.exists():
                shutil.rmtree(killed)
        self.succeeds("quantize", self.model, "-o", killed, *tuned, "--resume")
        self.assertEqual(contents(killed), contents(whole))
        self.assertEqual([json.loads((folder / "config.json").read_text())["quantization_config"]["format"] for folder in (plain, whole)], [1, 2])
        record = json.loads((whole / "turboquant.json").read_text())
        self.assertLessEqual(float(record["tuning"]["kl_after"]), float(record["tuning"]["kl_before"]))
        calibration = record["block_calibration"]
        better = ["y" if float(after) < float(before) else "n" for before, after in calibration["errors_plain_calibrated"]]
        self.assertIn("y", better)  # of random weights not every layer need be
        self.assertFalse([layer for layer, kept in enumerate(calibration["kept"]) if kept == "y" and better[layer] == "n"])
        result = json.loads(self.succeeds("eval", plain, whole, "--against", self.model, "--text", text, "--window", "64", "--windows", "4",
                                          "--json").stdout)  # fmt: skip
        untuned, tuned = (model["texts"][0]["kl"]["mean"] for model in result["models"])
        self.assertLess(tuned, 1.1 * untuned)  # random weights: there is little to gain on other text


class QuantizeMixture(ProgramTest):
    layers, kind = 2, "mixture"

    def test_experts_are_rounded_one_by_one_and_the_router_is_kept(self):
        output = self.folder / "mixture"
        command = ["quantize", self.model, "-o", output, "--bits", "3.5", *QUANTIZE]
        plan = json.loads(self.succeeds(*command, "--dry-run", "--json").stdout)
        summary = self.succeeds(*command)
        self.assertEqual(plan["bytes"], sum(map(len, contents(output).values())))
        self.assertIn("experts had too few tokens of their own, or none", summary.stdout)
        tensors = {tensor["name"]: tensor for tensor in json.loads(self.succeeds("inspect", output, "--json").stdout)["tensors"]}
        mlp = "model.layers.1.mlp."
        self.assertEqual(tensors[mlp + "gate.weight"]["codec"], "BF16")
        for name, shape in (("gate_proj", [3, 44, 64]), ("up_proj", [3, 44, 64]), ("down_proj", [3, 64, 44])):
            self.assertEqual((tensors[mlp + f"experts.{name}.weight"]["codec"], tensors[mlp + f"experts.{name}.weight"]["shape"]),
                             ("grid", shape))  # fmt: skip
        record = json.loads((output / "turboquant.json").read_text())
        self.assertEqual(record["experts"][mlp + "input"], "oos")
        self.assertEqual(record["experts"][mlp + "down_proj"], "oos")
        for name, error in record["relative_error"].items():
            self.assertTrue(0 < float(error) < 0.05, (name, error))
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        result = json.loads(self.succeeds("eval", output, "--against", self.model, "--text", text, "--window", "64", "--windows", "4",
                                          "--json").stdout)  # fmt: skip
        self.assertTrue(0 < result["texts"][0]["kl"]["mean"] < 1)


class QuantizePoorInputs(ProgramTest):
    layers, kind = 2, "poor"

    def test_inputs_that_say_too_little_are_counted_and_named(self):
        query = "model.layers.1.self_attn.input"
        for flags in (["--calibrate", "off"], ["--calibrate", "on", "--calibrate-steps", "2"]):
            output = self.folder / f"poor-{flags[1]}"
            command = ["quantize", self.model, "-o", output, "--bits", "3", *QUANTIZE, *flags]
            plan = json.loads(self.succeeds(*command, "--dry-run", "--json").stdout)
            summary = self.succeeds(*command)
            self.assertEqual(plan["bytes"], sum(map(len, contents(output).values())))
            self.assertIn(f"{query}: all tokens have one direction: errors of weights count alike; 2 inputs are always zero", summary.stdout)
            record = json.loads((output / "turboquant.json").read_text())
            self.assertEqual(record["inputs"][query], "r       2")
            self.assertEqual(record["inputs"]["model.layers.1.mlp.input"], "r       0")
            self.assertIn(f"{query}: all tokens have one direction: errors of weights count alike; 2 inputs are always zero", (output / "report.html").read_text())


class QuantizeGemma(ProgramTest):
    layers, kind = 2, "gemma"

    def test_what_awq_folds_cancels_in_norms_that_store_their_weight_less_1(self):
        output, text = self.folder / "awq", self.folder / "text.txt"
        self.succeeds("quantize", self.model, "-o", output, "--bits", "8", "--method", "awq", "--head", "original", "--embedding", "original",
                      *QUANTIZE)  # fmt: skip
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        result = json.loads(self.succeeds("eval", output, "--against", self.model, "--text", text, "--window", "64", "--windows", "4",
                                          "--json").stdout)  # fmt: skip
        self.assertLess(result["texts"][0]["kl"]["mean"], 1e-3)
        changed = {tensor["name"]: tensor["codec"] for tensor in json.loads(self.succeeds("inspect", output, "--json").stdout)["tensors"]}
        self.assertEqual(changed["model.layers.0.pre_feedforward_layernorm.weight"], "F32")
        self.assertEqual(changed["model.layers.0.post_feedforward_layernorm.weight"], "BF16")


if __name__ == "__main__":
    unittest.main()
