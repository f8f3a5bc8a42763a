"""tq eval with tasks, and tq compare."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

from tiny_model import DATA, QUANTIZE, TQ, ProgramTest, contents, write_model

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


class Evaluate(ProgramTest):
    layers = 1

    def setUp(self):
        self.text = self.folder / "text.txt"
        self.text.write_text(TEXT)
        self.choices = self.folder / "choices.jsonl"
        self.choices.write_text("".join(json.dumps({"query": f"Question {i}:", "choices": ["yes", "no", "perhaps"], "gold": i % 3}) + "\n"
                                        for i in range(12)))  # fmt: skip

    def test_a_file_of_questions_is_a_task(self):
        result = json.loads(self.succeeds("eval", self.model, "--against", self.model, "--tasks", self.choices, "--json").stdout)
        (task,) = result["tasks"]
        self.assertEqual((task["name"], task["items"], result["texts"]), ("choices", 12, []))
        for metric in task["metrics"]:
            self.assertEqual(metric["difference"], {"mean": 0.0, "stderr": 0.0, "low": 0.0, "high": 0.0, "gained": 0, "lost": 0})
            self.assertAlmostEqual(metric["chance"], 1 / 3)
        self.assertEqual([metric["name"] for metric in task["metrics"]], ["acc", "acc_bytes"])

    def test_a_limit_draws_the_same_items_again(self):
        first, second = (self.succeeds("eval", self.model, "--tasks", self.choices, "--limit", "5", "--seed", "3", "--json").stdout for _ in "12")
        self.assertEqual(first, second)
        self.assertEqual(json.loads(first)["tasks"][0]["items"], 5)

    def test_programs_are_run(self):
        path = self.folder / "programs.jsonl"
        path.write_text(json.dumps({"prompt": "def f():\n    return 1\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "f",
                                    "canonical_solution": "    return 1\n"}) + "\n")  # fmt: skip
        (task,) = json.loads(self.succeeds("eval", self.model, "--tasks", path, "--samples", "2", "--temperature", "0.2", "--json").stdout)["tasks"]
        self.assertEqual([metric["name"] for metric in task["metrics"]], ["pass@1", "canonical_loss_per_byte"])
        self.assertGreater(task["metrics"][1]["mean"], 0)

    def test_both_protocols_are_printed_by_name(self):
        for name in ("huggingface", "llama.cpp"):
            flags = ["--text", self.text, "--window", "64", "--windows", "2", "--protocol", name]
            self.assertIn(f"protocol {name}", self.succeeds("eval", self.model, *flags).stdout)
            self.assertEqual(json.loads(self.succeeds("eval", self.model, *flags, "--json").stdout)["protocol"], name)

    def test_a_text_may_come_through_a_pipe(self):
        flags = ["--window", "64", "--windows", "2", "--json"]
        command = [TQ, "eval", self.model, "--text", "/dev/stdin", *flags]
        piped = subprocess.run(command, input=TEXT, capture_output=True, text=True, timeout=120)
        self.assertEqual(piped.returncode, 0, piped.stderr)
        (here,) = json.loads(piped.stdout)["texts"]
        (there,) = json.loads(self.succeeds("eval", self.model, "--text", self.text, *flags).stdout)["texts"]
        self.assertEqual(here["ppl"], there["ppl"])

    def test_wrong_flags_are_status_2(self):
        self.fails(2, "eval", self.model, says="--text")
        self.fails(2, "eval", self.model, "--tasks", "kl", "--text", self.text, says="--against")
        self.fails(2, "eval", self.model, "--tasks", "mmmlu", says="mmmlu")
        self.fails(2, "eval", self.model, "--tasks", "mmlu", says="--task-data")
        self.fails(2, "eval", self.model, "--tasks", self.choices, "--samples", "5", says="--temperature")
        self.fails(2, "eval", self.model, "--text", self.text, "--protocol", "mine", says="protocol")
        self.fails(2, "compare", self.model, "-o", self.folder / "c", "--text", self.text, "--bits", "1", says="--bits")
        self.fails(2, "compare", self.model, "-o", self.folder / "c", "--text", self.text, "--methods", "magic", says="magic")

    def test_the_json_of_texts_has_its_documented_shape(self):
        flags = ["--against", self.model, "--text", self.text, "--window", "64", "--windows", "2", "--json"]
        (text,) = json.loads(self.succeeds("eval", self.model, *flags).stdout)["texts"]
        self.assertEqual((text["name"], text["window"], text["windows"]), ("text.txt", 64, 2))
        self.assertEqual(set(text["kl"]), {"mean", "stderr"})
        self.assertTrue(all(isinstance(text[key], float) for key in ("ppl", "ppl_original", "top1")))
        shape = '{"texts": [{"name", "window", "windows", "kl": {"mean", "stderr"}, "ppl", "ppl_original", "top1"}], …}'
        self.assertIn(shape, (DATA.parents[1] / "docs" / "evaluation.md").read_text())

    def test_one_window_has_no_standard_error(self):
        report = self.folder / "one-window.html"
        flags = ["eval", self.model, "--against", self.model, "--text", self.text, "--window", "64", "--windows", "1", "--report", report]
        (text,) = json.loads(self.succeeds(*flags, "--json").stdout)["texts"]
        self.assertIsNone(text["kl"]["stderr"])
        self.assertIsNone(text["ppl_stderr"])
        printed = self.succeeds(*flags).stdout
        self.assertIn("1 window of 64, 63 tokens", printed)
        self.assertIn("± -\n", printed)
        self.assertNotIn("nan", printed + report.read_text().replace("nance", ""))

    def test_windows_longer_than_the_context_are_status_2(self):
        for command in (["eval", self.model], ["compare", self.model, "-o", self.folder / "long", "--methods", "rtn"]):
            says = f"windows of 129 tokens: {self.model} was made for 128"
            self.fails(2, *command, "--text", self.text, "--window", "129", says=says)
        self.succeeds("eval", self.model, "--text", self.text, "--window", "128")

    def with_tokenizer(self, name, change=None, **config):
        """A copy of the model whose tokenizer is changed."""
        folder = shutil.copytree(self.model, self.folder / name)
        path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        tokenizer = json.loads(path.read_text())
        if change:
            change(tokenizer["model"]["vocab"])
        path.write_text(json.dumps(tokenizer, indent=1))
        settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
        return folder

    def test_models_of_other_tokens_are_status_3(self):
        def swap(vocabulary):
            vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]

        same, swapped = self.with_tokenizer("same-tokens"), self.with_tokenizer("swapped", swap)
        begun = self.with_tokenizer("begun", bos_token="<|end|>", add_bos_token=True)
        flags = ["--text", self.text, "--window", "64", "--windows", "1"]
        for other, says in ((swapped, "other tokens of"), (begun, "begins a text with other tokens")):
            for models in ([self.model, other], [self.model, "--against", other]):
                message = self.fails(3, "eval", *models, *flags, says=says).stderr
                self.assertIn(f"{other}: its tokenizer ", message)
                self.assertIn(f"that of {self.model}; measure", message)
        self.succeeds("eval", self.model, same, "--against", same, *flags)
        self.succeeds("eval", swapped, *flags)

    def test_a_path_that_cannot_be_followed_is_status_3(self):
        loop = self.folder / "loop"
        loop.symlink_to("loop")
        self.fails(3, "eval", self.model, "--tasks", "arc_easy", "--task-data", loop, says=f"{loop}/arc_easy.jsonl: cannot be examined")

    def test_what_is_wrong_is_said_before_anything_is_measured(self):
        good = ["eval", self.model, "--text", self.text, "--window", "64"]
        self.fails(3, *good, "--text", self.folder / "missing.txt", says="missing.txt")
        self.fails(3, *good, "--tasks", f"kl,ppl,{self.folder}/missing.jsonl", "--against", self.model, says="missing.jsonl")
        self.fails(1, *good, "--report", self.folder / "nowhere" / "page.html", says="nowhere")
        self.fails(1, *good, "--report", self.folder, says="it is a folder")

    def test_a_report_takes_the_place_of_nothing_but_a_report(self):
        flags = ["eval", self.model, "--text", self.text, "--window", "64", "--windows", "1", "--report"]
        page, beside, dangling, pipe = (self.folder / name for name in ("page.html", "page.html.part", "dangling", "report.pipe"))
        dangling.symlink_to("nowhere")
        os.mkfifo(pipe)
        before = contents(self.model)
        for path in (self.model / "model.safetensors", self.text, dangling, pipe):
            self.fails(2, *flags, path, says=f"--report {path}: what is there is no report")
        self.assertEqual((contents(self.model), self.text.read_text()), (before, TEXT))
        beside.write_text("dear")
        page.write_text("")
        for _ in range(2):  # an empty file, then a report
            self.succeeds(*flags, page)
            self.assertTrue(page.read_text().startswith("<!doctype html>"))
        self.assertEqual(sorted(path.name for path in self.folder.glob("page.html*")), ["page.html", "page.html.part"])
        self.assertEqual(beside.read_text(), "dear")

    def test_a_report_that_is_read_is_not_replaced(self):
        page, link, out = self.folder / "read.html", self.folder / "link.html", self.folder / "with-report"
        page.write_text("<!doctype html>" + TEXT)
        link.symlink_to(page)
        self.fails(2, "eval", self.model, "--text", page, "--window", "64", "--report", link, says=f"it belongs to {page}")
        self.succeeds("quantize", self.model, "-o", out, "--bits", "3", *QUANTIZE)
        own = ["--text", self.text, "--window", "64", "--report", out / "report.html"]
        for models in ([out], [self.model, "--against", out]):
            self.fails(2, "eval", *models, *own, says=f"it belongs to {out}")

    def test_flags_of_what_is_not_measured_are_status_2(self):
        self.fails(2, "eval", self.model, "--tasks", self.choices, "--text", self.text, says="--text goes with kl or ppl")
        self.fails(2, "eval", self.model, "--text", self.text, "--window", "64", "--limit", "3", says="--limit goes with")
        self.fails(2, "eval", self.model, "--text", self.text, "--window", "64", "--skip-float", says="--skip-float goes with kl")
        task = ["eval", self.model, "--tasks", self.choices]
        self.fails(2, *task, "--task-data", self.folder, says="--task-data goes with --tasks by name")
        self.fails(2, *task, "--temperature", "0.5", says="--temperature goes with --tasks whose answers are generated")
        self.fails(2, *task, "--samples", "2", "--temperature", "0.5", says="--samples goes with --tasks whose answers are generated")

    def test_wrong_files_are_status_3(self):
        self.fails(3, "eval", self.model, "--tasks", "arc_easy", "--task-data", self.folder, says="arc_easy.jsonl")
        short = self.folder / "short.txt"
        short.write_text("Too short.")
        self.fails(3, "eval", self.model, "--text", short, "--window", "64", says="short.txt")
        broken = self.folder / "broken.jsonl"
        broken.write_text(self.choices.read_text() + '{"query": 3}\n')
        self.fails(3, "eval", self.model, "--tasks", broken, says="broken.jsonl:13")

    def test_a_name_that_is_no_utf8_is_written_with_a_replacement(self):
        text = os.fsencode(self.folder) + b"/te\xe9.txt"
        shutil.copy(self.text, text)
        result = subprocess.run([TQ, "eval", self.model, "--text", text, "--window", "64", "--windows", "1", "--json"], capture_output=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("te\ufffd.txt", json.loads(result.stdout)["texts"][0]["name"])
        compare = [TQ, "compare", self.model, "-o", self.folder / "replaced", *QUANTIZE, "--bits", "4", "--methods", "rtn", "--text", text]
        self.assertEqual(subprocess.run([*compare, "--window", "64", "--windows", "1"], capture_output=True).returncode, 0)
        self.assertIn("te\ufffd.txt", (self.folder / "replaced" / "compare.json").read_text())

    def test_text_of_the_calibration_is_warned_about_by_name(self):
        built_in = (DATA.parents[1] / "data" / "calibration" / "code.txt").read_text()[:4000]
        seen, fresh = self.folder / "seen.txt", self.folder / "fresh.txt"
        seen.write_text(built_in)
        fresh.write_text(" ".join(f"word{i} of{i * 7} text{i * 3}" for i in range(300)))
        out = self.folder / "artifact"
        self.succeeds("quantize", self.model, "-o", out, "--bits", "3", *QUANTIZE)
        flags = ["--text", seen, "--text", fresh, "--window", "64", "--windows", "2"]
        warned = self.succeeds("eval", out, *flags).stderr
        self.assertIn("seen.txt: ", warned)
        self.assertIn("% of its runs of 13 words stand in the calibration text code", warned)
        self.assertNotIn("fresh.txt", "".join(line for line in warned.splitlines() if line.startswith("warning")))
        self.assertNotIn("warning", self.succeeds("eval", self.model, *flags).stderr)  # made from no text
        own = self.succeeds("compare", self.model, "-o", self.folder / "own", "--bits", "3", "--methods", "rtn", "--calibration", seen,
                            "--calibration-tokens", "512", *flags).stderr  # fmt: skip
        self.assertIn("stand in the calibration text", own)

    def test_a_file_of_the_calibration_is_warned_about_by_its_hash(self):
        own, copy, out = (self.folder / name for name in ("own.txt", "copy.txt", "of-files"))
        own.write_text(TEXT * 4)
        copy.write_text(TEXT * 4)
        self.succeeds("quantize", self.model, "-o", out, "--bits", "3", *QUANTIZE, "--calibration", own)
        warned = self.succeeds("eval", out, "--text", copy, "--text", self.text, "--window", "64", "--windows", "1").stderr
        self.assertIn(f"warning: {copy}: {out} was calibrated on this very text (own.txt)", warned)
        self.assertEqual(warned.count("warning"), 1)

    def test_one_calibration_file_is_warned_about(self):
        one = self.folder / "one.txt"
        one.write_text(TEXT * 4)
        arguments = ["quantize", self.model, "-o", self.folder / "one", "--bits", "3", *QUANTIZE, "--dry-run", "--calibration"]
        self.assertIn("is all of the calibration text", self.succeeds(*arguments, one).stderr)
        self.assertNotIn("warning", self.succeeds(*arguments, one, "--calibration", self.text).stderr)

    def compare(self, output, *flags):
        return ["compare", self.model, "-o", output, *QUANTIZE, "--text", self.text, "--window", "64", "--windows", "3", "--tasks",
                f"kl,{self.choices}", *flags]  # fmt: skip

    def test_compare_makes_what_is_missing_and_measures_all(self):
        output = self.folder / "comparison"
        compare = self.compare(output, "--bits", "2,4", "--methods", "turboquant")
        self.succeeds(*compare)
        first = json.loads((output / "compare.json").read_text())
        self.assertEqual([(each["method"], each["bits"]) for each in first["artifacts"]], [("turboquant", 2.0), ("turboquant", 4.0)])
        losses = [each["texts"][0]["kl"]["mean"] for each in first["artifacts"]]
        self.assertGreater(losses[0], losses[1])
        self.assertIn("KL divergence against bits", (output / "report.html").read_text())
        made = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.parent != output}
        self.assertEqual(len([path for path in made if path.name == "model.safetensors"]), 2)
        self.assertEqual(len([path for path in made if path.name.startswith("text.txt-")]), 2)
        self.succeeds(*compare)
        self.assertEqual(json.loads((output / "compare.json").read_text()), first)
        self.assertEqual({path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.parent != output}, made)

    def test_compare_measures_again_what_is_kept_and_makes_no_sense(self):
        output = self.folder / "kept"
        compare = self.compare(output, "--bits", "3", "--methods", "rtn")
        self.succeeds(*compare)
        first = json.loads((output / "compare.json").read_text())
        (path,) = output.glob("results/*/text.txt-*.safetensors")
        kept = path.read_bytes()
        (length,) = struct.unpack("<Q", kept[:8])

        def damage(change):
            header, data = json.loads(kept[8 : 8 + length]), kept[8 + length :]
            facts = json.loads(header["__metadata__"]["result"])
            arrays = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name != "__metadata__"}
            change(facts, arrays)
            header, data = {"__metadata__": {"result": json.dumps(facts)}}, b""
            for name, values in arrays.items():
                offsets = [len(data), len(data) + len(values)]
                header[name] = {"dtype": "F64", "shape": [len(values) // 8], "data_offsets": offsets}
                data += values
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            path.write_bytes(struct.pack("<Q", len(text)) + text + data)

        def harmless(facts, arrays):
            arrays["loss"] = struct.pack("<d", 9) * (len(arrays["loss"]) // 8)

        damage(harmless)
        self.succeeds(*compare)
        changed = json.loads((output / "compare.json").read_text())
        self.assertNotEqual(changed, first)  # what is kept counts
        for change in (lambda facts, arrays: facts.update(per_window=0), lambda facts, arrays: facts.update(per_window=-63),
                       lambda facts, arrays: facts.update(per_window=62), lambda facts, arrays: arrays.update(kl=arrays["kl"][:-8]),
                       lambda facts, arrays: arrays.pop("loss")):  # fmt: skip
            damage(change)
            self.succeeds(*compare)
            self.assertEqual(json.loads((output / "compare.json").read_text()), first)
            self.assertEqual(path.read_bytes(), kept)

    def test_compare_measures_again_a_task_that_is_kept_without_some_items(self):
        output = self.folder / "kept-task"
        compare = self.compare(output, "--bits", "3", "--methods", "rtn")
        self.succeeds(*compare)
        first = json.loads((output / "compare.json").read_text())
        path = sorted(output.glob("results/*/choices-*.json"))[0]
        kept = path.read_bytes()
        for change in (lambda task: task["metrics"][0]["values"].pop(), lambda task: task["metrics"][1].update(values=[]),
                       lambda task: task["ids"].pop(), lambda task: task["groups"].append("")):  # fmt: skip
            task = json.loads(kept)
            change(task)
            path.write_text(json.dumps(task))
            self.succeeds(*compare)
            self.assertEqual(json.loads((output / "compare.json").read_text()), first)
            self.assertEqual(path.read_bytes(), kept)

    def test_compare_has_all_methods_and_says_what_is_left_out(self):
        model = write_model(self.folder / "of-eights", 1, "eights")
        output = self.folder / "all"
        compare = self.compare(output, "--bits", "2.5,3", "--calibrate", "on", "--calibrate-steps", "1", "--tune-steps", "1")
        compare[1] = model
        dry = self.succeeds(*compare, "--dry-run").stdout
        plan = json.loads(self.succeeds(*compare, "--dry-run", "--json").stdout)
        self.assertFalse(output.exists())
        printed = self.succeeds(*compare).stdout
        self.assert_planned(plan, output)
        result = json.loads((output / "compare.json").read_text())
        stages = {(each["method"], each["bits"]): each["stages"] for each in result["artifacts"]}
        rivals = ["rtn", "rtn-channel", "gptq", "gptq-channel", "awq", "awq-channel", "quip", "quip-tuned"]
        self.assertEqual(list(stages), [("turboquant", 2.5), ("turboquant", 3.0), *((rival, 3.0) for rival in rivals)])
        self.assertEqual([(each["method"], each["bits"]) for each in result["left_out"]], [(rival, 2.5) for rival in rivals])
        self.assertTrue(stages["turboquant", 3.0]["calibrate"] and stages["quip-tuned", 3.0]["calibrate"] and stages["quip-tuned", 3.0]["tune"])
        self.assertFalse(stages["turboquant", 3.0]["tune"] or stages["quip", 3.0]["calibrate"] or stages["gptq", 3.0]["calibrate"])
        labels = ["TurboQuant", "RTN g8/32/64", "GPTQ per channel", "QuIP# tuned"]
        page = (output / "report.html").read_text()
        for text in (dry, printed, page):
            for label in labels:
                self.assertIn(label, text)
        self.assertIn("left out: rtn, 2.5 bits", dry)
        self.assertIn("Left out: rtn at 2.5 bits: 2.5 bits a weight: rtn takes whole bits", printed)
        self.assertIn("left out of claims: ", printed)  # a random model's guesses
        self.assertTrue(all(each["seconds_quantizing"] > 0 for each in result["artifacts"]))

    def assert_planned(self, plan, output):
        """The plan of a dry run is what was made then, to the byte."""
        made = json.loads((output / "compare.json").read_text())
        self.assertEqual([each["method"] for each in plan["left_out"]], [each["method"] for each in made["left_out"]])
        self.assertEqual(plan["calibration_tokens"], made["calibration_tokens"])
        for planned, artifact in zip(plan["artifacts"], made["artifacts"], strict=True):
            self.assertEqual(planned["label"], artifact["label"])
            self.assertEqual(planned["bytes_at_most"], artifact["bytes"])
            self.assertEqual(artifact["bytes"], sum(map(len, contents(artifact["model"]).values())))
            self.assertLess(artifact["file_bytes"], artifact["bytes"])
            self.assertFalse(planned["is_there"])
        self.assertEqual(plan["bytes_to_make"], sum(each["bytes"] for each in made["artifacts"]))

    def test_compare_goes_on_after_an_interrupt(self):
        output = self.folder / "interrupted"
        compare = self.compare(output, "--bits", "3", "--methods", "rtn,gptq")
        process = subprocess.Popen([TQ, *map(str, compare)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(output.glob("*.partial")):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        self.assertEqual(process.returncode, 5, errors)
        self.assertIn("the same command goes on", errors.splitlines()[-1])
        self.succeeds(*compare)
        self.assertEqual(len(json.loads((output / "compare.json").read_text())["artifacts"]), 2)
        self.fails(2, *("512" if flag == "1024" else flag for flag in compare), says="calibration_tokens: 1024, not 512")

    def test_compare_takes_no_artifact_of_another_source_or_text_of_the_same_name(self):
        output = self.folder / "of-names"
        models, texts = [], []
        for name in "abc":  # c holds what a holds
            folder = self.folder / name
            models.append(shutil.copytree(self.model, folder / "model"))
            texts.append(folder / "calibration.txt")
            texts[-1].write_text(TEXT * 4 if name != "b" else TEXT[::-1] * 4)
        weights = bytearray((models[1] / "model.safetensors").read_bytes())
        weights[-2] ^= 1
        (models[1] / "model.safetensors").write_bytes(weights)

        def compare(model, text):
            command = self.compare(output, "--bits", "3", "--methods", "rtn", "--calibration", texts[text])
            command[1] = models[model]
            return command

        self.succeeds(*compare(0, 0))
        self.fails(2, *compare(1, 0), says="another source or with other options (source_hash: ")
        self.fails(2, *compare(0, 1), says="(calibration_hashes: ")
        self.assertNotIn("quantizing", self.succeeds(*compare(2, 2)).stderr)
        record = output / "rtn-3bit-fast" / "turboquant.json"
        record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != "source_hash"}))
        self.fails(2, *compare(0, 0), says="source_hash: null")

    def test_compare_names_flags_of_stages_that_no_method_has(self):
        output = self.folder / "without"
        self.fails(2, *self.compare(output, "--methods", "rtn,gptq", "--tune-steps", "1"), says="--tune-steps goes with --tune on")
        self.fails(2, *self.compare(output, "--methods", "turboquant", "--calibrate-steps", "1"), says="--calibrate-steps goes with --calibrate on")
        self.fails(2, *self.compare(output, "--methods", "rtn", "--calibrate", "on"), says="--calibrate goes with turboquant")

    def test_compare_reads_its_texts_before_it_begins(self):
        short, output = self.folder / "shorter.txt", self.folder / "nothing"
        short.write_text("Too short.")
        for path in (short, self.folder / "missing.txt"):
            self.fails(3, *self.compare(output, "--methods", "rtn", "--text", path), says=path.name)
            self.assertFalse(output.exists())


if __name__ == "__main__":
    unittest.main()
