"""What tq quantize refuses before it works, and what a dry run promises."""

import json
import shutil
import unittest

from tiny_model import QUANTIZE, ProgramTest, contents

TEXT = "The quick brown fox jumps over the lazy dog. "


class Plan(ProgramTest):
    layers = 2

    def command(self, output, *flags):
        return ["quantize", self.model, "-o", output, *QUANTIZE, *flags]

    def plan(self, *flags):
        return json.loads(self.succeeds(*self.command(self.folder / "dry", *flags, "--dry-run", "--json")).stdout)

    def size(self, folder):
        return sum(map(len, contents(folder).values()))

    def test_the_tokens_are_those_that_the_text_has(self):
        text, output = self.folder / "some.txt", self.folder / "of-some"
        text.write_text((TEXT * 40)[: 3 * 128 + 50])  # a token a byte, sequences of 128
        flags = ["--bits", "3", "--calibration", text]
        few, usual = (self.plan(*each, "--gradients", "on")["operations_gradients"] for each in (flags, ["--bits", "3"]))
        self.assertAlmostEqual(few / usual, 3 * 128 / 1024)
        planned = self.plan(*flags)
        self.succeeds(*self.command(output, *flags))
        self.assertEqual(json.loads((output / "turboquant.json").read_text())["calibration_tokens"], 3 * 128)
        self.assertIn("| 384 tokens |", (output / "README.md").read_text())
        self.assertEqual(planned["bytes"], self.size(output))
        self.assertEqual(planned["bytes_at_most"], planned["bytes"])

    def test_it_says_which_windows_rounding_has(self):
        for flags, effort in (([], "fast"), (["--rounding", "best"], "best"), (["--calibrate", "on"], "normal"),
                              (["--calibrate", "on", "--rounding", "fast"], "fast")):  # fmt: skip
            printed = self.succeeds(*self.command(self.folder / "dry", "--bits", "3", *flags, "--dry-run")).stdout
            self.assertEqual(printed.count("windows of effort"), 1)
            self.assertIn(f"of rounding; windows of effort {effort}", printed)
        printed = self.succeeds(*self.command(self.folder / "dry", "--bits", "3", "--method", "rtn", "--dry-run")).stdout
        self.assertNotIn("windows", printed)

    def test_a_dry_run_fails_as_the_run_would(self):
        mute, taken, begun = self.folder / "mute", self.folder / "taken", self.folder / "begun"
        shutil.copytree(self.model, mute)
        (mute / "tokenizer.json").unlink()
        taken.mkdir()
        (taken / "diary").write_text("dear")
        begun.with_name("begun.partial").mkdir()
        free = self.folder / "free"
        for status, model, output, flags, says in (
            (3, self.model, free, ["--calibration", self.folder / "missing.txt"], "missing.txt"),
            (3, mute, free, [], "it has no tokenizer"),
            (2, self.model, taken, [], "already exists"),
            (2, self.model, begun, [], "--resume"),
        ):
            command = ["quantize", model, "-o", output, "--bits", "3", *QUANTIZE, *flags]
            errors = [self.fails(status, *command, *dry, says=says).stderr for dry in ([], ["--dry-run"])]
            self.assertEqual(*errors)

    def test_flags_of_stages_that_are_off_are_status_2(self):
        for stage, flags in (("--tune on", ["--tune-steps", "--tune-rate"]), ("--allocate on", ["--allocate-tokens"]),
                             ("--calibrate on", ["--calibrate-steps", "--calibrate-sequences", "--calibrate-tokens", "--calibrate-weight-rate"]),
                             ("--gradients on", ["--gradient-tokens"]), ("--fit", ["--context", "--batch"]),
                             ("--method rtn, gptq or awq", ["--group"])):  # fmt: skip
            for flag in flags:
                value = "0.25" if flag.endswith("rate") else "1"
                self.fails(2, *self.command(self.folder / "x", "--bits", "3", flag, value), says=f"{flag} goes with {stage}")
        self.fails(2, *self.command(self.folder / "x", "--bits", "3", "--method", "awq", "--act-order", "on"), says="--act-order goes with")
        self.fails(2, *self.command(self.folder / "x", "--bits", "3", "--split", "layer"), says="--split layer goes with --gpus")
        rates = self.folder / "rates.json"
        rates.write_text('{"*": 3, "model.layers.0.mlp.down_proj": 4}')
        self.fails(2, *self.command(self.folder / "x", "--rates", rates, "--allocate", "on"), says="--allocate on goes without --rates")
        self.plan("--bits", "3", "--tune", "on", "--tune-steps", "1")  # on, so that it is taken
        best = ["--effort", "best", "--calibration-tokens", "1024", "--tune-steps", "1"]
        self.succeeds("quantize", self.model, "-o", self.folder / "dry", "--bits", "3", "--dry-run", *best)

    def test_rates_of_a_file_leave_nothing_to_be_chosen(self):
        rates = self.folder / "all-rates.json"
        rates.write_text('{"*": 3}')
        best = ["quantize", self.model, "-o", self.folder / "dry", "--effort", "best", "--calibration-tokens", "1024", "--dry-run", "--json"]
        given = json.loads(self.succeeds(*best, "--rates", rates).stdout)
        self.assertEqual((given["operations_allocation"], given["bytes_at_most"]), (0, given["bytes"]))
        self.assertGreater(json.loads(self.succeeds(*best, "--bits", "3").stdout)["operations_allocation"], 0)

    def test_rates_of_a_file_say_once_how_small_the_other_linears_are(self):
        rates, down = self.folder / "some-rates.json", "model.layers.0.mlp.down_proj"
        rates.write_text(json.dumps({down: 5}))
        self.fails(2, *self.command(self.folder / "x", "--rates", rates), says="it has no '*'")
        self.assertGreater(self.plan("--rates", rates, "--bits", "3")["bytes"], self.plan("--bits", "3")["bytes"])
        self.assertLessEqual(self.plan("--rates", rates, "--size", "140000")["bytes"], 140000)
        rates.write_text(json.dumps({"*": 3, down: 5}))
        for target in (["--bits", "3"], ["--size", "140000"], ["--fit", "1GB"]):
            self.fails(2, *self.command(self.folder / "x", "--rates", rates, *target), says="leave one of them out")

    def test_a_context_that_the_model_does_not_have_is_status_2(self):
        fit = ["--fit", "1GB", "--context"]
        self.fails(2, *self.command(self.folder / "x", *fit, "129"), says="--context 129: the model was made for 128 tokens")
        self.plan(*fit, "128")

    def test_messages_name_no_flags_that_were_not_given(self):
        rates = self.folder / "broken-rates.json"
        for content in ('{"*": 9}', '{"*": 3, "model.layers.0.mlp.down_proj": 9}'):
            rates.write_text(content)
            self.assertNotIn("--bits", self.fails(2, *self.command(self.folder / "x", "--rates", rates), says="9 bits").stderr)
        rates.write_text('{"*": 3, "model.layers.0.mlp.down_proj": 3.5}')
        self.fails(2, *self.command(self.folder / "x", "--rates", rates, "--method", "gptq"), says="3.5 bits for model.layers.0.mlp.down_proj")

    def test_a_size_is_kept_by_methods_of_whole_bits(self):
        sizes = {bits: self.plan("--bits", bits, "--method", "gptq")["bytes"] for bits in "234"}
        for limit, bits in ((sizes["4"] - 1, "3"), (sizes["3"], "3"), (sizes["3"] - 1, "2")):
            self.assertEqual(self.plan("--size", str(limit), "--method", "gptq")["bytes"], sizes[bits])

    def test_a_size_is_kept_with_all_stages(self):
        reference = self.plan("--bits", "3")["bytes"]
        stages = ["--allocate", "on", "--calibrate", "on", "--calibrate-steps", "1", "--tune", "on", "--tune-steps", "1"]
        output = self.folder / "sized"
        plan = self.plan("--size", str(reference), *stages)
        self.assertLessEqual(plan["bytes"], reference)
        self.assertLessEqual(plan["bytes_at_most"], reference)
        self.succeeds(*self.command(output, "--size", str(reference), *stages))
        self.assertLessEqual(self.size(output), plan["bytes_at_most"])

    def test_a_choice_of_bits_keeps_the_size_that_is_promised(self):
        for bits in ("2.5", "3"):
            output = self.folder / f"chosen-{bits}"
            flags = ["--bits", bits, "--allocate", "on"]
            plan = self.plan(*flags)
            printed = self.succeeds(*self.command(self.folder / "dry", *flags, "--dry-run")).stdout
            self.assertIn(f"at most {plan['bytes_at_most']} bytes", printed)
            self.succeeds(*self.command(output, *flags))
            self.assertLessEqual(self.size(output), plan["bytes_at_most"])
            self.assertLess(plan["bytes"], plan["bytes_at_most"])

    def test_sizes_have_units_with_and_without_their_b(self):
        wanted = self.plan("--size", "200000")["bytes"]
        for size in ("200kB", "200k", "0.2M", "0.2 MB", "0.0002G", "195.3125Ki", "195.3125KiB"):
            self.assertEqual(self.plan("--size", size)["bytes"], wanted, size)
        for size in ("200X", "B", "-1M", "M"):
            self.fails(2, *self.command(self.folder / "x", f"--size={size}"), says="give a size such as")

    def test_what_did_not_run_is_not_recorded(self):
        output = self.folder / "recorded"
        self.succeeds(*self.command(output, "--bits", "3"))
        record = json.loads((output / "turboquant.json").read_text())
        self.assertEqual(record["allocation"], {"chosen": "uniform   ", "target": ""})
        self.assertNotIn("tuning", record)

    def test_a_source_that_is_quantized_already_is_warned_about(self):
        once, twice = self.folder / "once", self.folder / "twice"
        self.assertNotIn("already", self.succeeds(*self.command(once, "--bits", "4")).stderr)
        self.assertIn(f"warning: {once}: tq has quantized it already", self.succeeds("quantize", once, "-o", twice, "--bits", "3", *QUANTIZE).stderr)
        self.succeeds("inspect", twice, "--verify")

    def test_a_result_no_smaller_than_its_source_is_warned_about(self):
        small, says = self.folder / "small", "its weights take "
        self.succeeds(*self.command(small, "--bits", "2"))
        larger = self.succeeds("quantize", small, "-o", self.folder / "dry", *QUANTIZE, "--bits", "8", "--dry-run")
        self.assertIn(f"warning: {small}: {says}", larger.stderr)
        self.assertNotIn(says, self.succeeds(*self.command(self.folder / "dry", "--bits", "8", "--dry-run")).stderr)

    def test_inspected_bytes_add_up_to_the_files(self):
        output = self.folder / "inspected"
        self.succeeds(*self.command(output, "--bits", "3"))
        for model in (self.model, output):
            facts = json.loads(self.succeeds("inspect", model, "--json").stdout)
            shared = facts["bytes_signs"] + facts["bytes_tables"]
            self.assertEqual(shared > 0, model == output)
            self.assertEqual(sum(tensor["bytes"] for tensor in facts["tensors"]) + shared, facts["bytes"])
            self.assertEqual(facts["bytes"] + facts["bytes_rest"], facts["file_bytes"])
            self.assertEqual(facts["file_bytes"], (model / "model.safetensors").stat().st_size)
            rows = self.succeeds("inspect", model).stdout.splitlines()[1:]
            end = next(i for i, row in enumerate(rows) if row.startswith("weight files"))
            listed = [int(row[94:108]) for row in rows[:end]]
            self.assertEqual(sum(listed), int(rows[end][94:108]))
            self.assertEqual(int(rows[end][94:108]), facts["file_bytes"])


if __name__ == "__main__":
    unittest.main()
