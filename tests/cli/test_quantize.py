"""The artifact is the same bytes however it came about: threads, interruptions, kills."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import unittest

from tiny_model import QUANTIZE, TQ, ProgramTest, contents


class Quantize(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.folder / "reference"
        start = time.monotonic()
        subprocess.run(cls.command(cls.reference), check=True, capture_output=True)
        cls.duration = time.monotonic() - start

    @classmethod
    def command(cls, output, *flags):
        return [TQ, "quantize", str(cls.model), "-o", str(output), "--bits", "2.5", *QUANTIZE, *flags]

    def start(self, output, *flags):
        return subprocess.Popen(self.command(output, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_job(self, process, output):
        """Until the folder of the run says whose it is."""
        job = output.with_name(output.name + ".partial") / "job"
        while process.poll() is None and not (job.exists() and job.stat().st_size):
            time.sleep(0.002)
        return job

    def assert_same(self, output):
        made, wanted = contents(output), contents(self.reference)
        self.assertEqual(list(made), list(wanted))
        for name in wanted:
            self.assertTrue(made[name] == wanted[name], f"{name} differs")

    def test_dry_run_tells_the_size_and_writes_nothing(self):
        output = self.folder / "planned"
        plan = json.loads(self.succeeds(*self.command(output, "--dry-run", "--json")[1:]).stdout)
        self.assertFalse(output.exists())
        subprocess.run(self.command(output), check=True, capture_output=True)
        self.assertEqual(plan["bytes"], sum(map(len, contents(output).values())))
        counted = int(subprocess.run(["du", "-sb", output], check=True, capture_output=True, text=True).stdout.split()[0])
        entry = int(subprocess.run(["stat", "-c", "%s", output], check=True, capture_output=True, text=True).stdout)
        self.assertEqual(plan["bytes"] + entry, counted)
        self.assertAlmostEqual(plan["bits_linears"], 2.5, delta=0.01)

    def test_shapes_alone_are_enough_for_a_dry_run(self):
        config = self.folder / "llama-3-70b.json"
        config.write_text(json.dumps({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0}))  # fmt: skip
        for flags, bits in ((("--size", "35GB"), 3.903), (("--size", "27GB"), 2.968),
                            (("--size", "35GB", "--embedding", "4", "--head", "5"), 3.949),
                            (("--size", "27GB", "--embedding", "4", "--head", "5"), 3.014)):  # fmt: skip
            text = self.succeeds("quantize", config, "-o", self.folder / "dry", "--dry-run", *flags).stdout
            self.assertAlmostEqual(float(re.search(r"bits +([\d.]+) a weight", text)[1]), bits, delta=0.002)
            self.assertLessEqual(int(re.search(r"size +(\d+) bytes", text)[1]), int(flags[1][:2]) * 10**9)
        for bits, gigabytes in (("4", 35.83), ("3", 27.27)):
            text = self.succeeds("quantize", config, "-o", self.folder / "dry", "--dry-run", "--bits", bits).stdout
            size = re.search(r"size +(\d+) bytes \((\d+\.\d{3}) GB\)", text)
            self.assertAlmostEqual(int(size[1]) / 1e9, gigabytes, delta=0.012)
            self.assertAlmostEqual(float(size[2]), int(size[1]) / 1e9, delta=0.00051)
        fit = self.succeeds("quantize", config, "-o", self.folder / "dry", "--dry-run", "--fit", "48GB", "--context", "32k", "--batch", "2")
        cache = 2 * 2 * 2 * 80 * 8 * 128 * 32768
        self.assertLess(int(re.search(r"size +(\d+) bytes", fit.stdout)[1]), 48 * 10**9 - cache)

    def test_the_artifact_carries_a_report_of_the_planned_size(self):
        page = (self.reference / "report.html").read_text()
        for text in ("Size", "Error by tensor", "Rates by layer", "model.layers.2.mlp.down_proj", "2.5 bits"):
            self.assertIn(text, page)
        self.assertTrue(page.rstrip().endswith("</html>") and page.endswith("\n"))
        self.assertNotIn("reference", page)  # the same wherever it lies

    def test_nothing_is_said_of_an_embedding_that_is_looked_up(self):
        summary = self.succeeds(*self.command(self.folder / "spoken")[1:]).stdout
        self.assertNotIn("no tokens", summary)
        inputs = json.loads((self.reference / "turboquant.json").read_text())["inputs"]
        self.assertIn("lm_head", inputs)
        self.assertNotIn("model.embed_tokens", inputs)
        self.assertTrue(all(facts.startswith("o") for facts in inputs.values()), inputs)

    def test_one_thread_and_two_make_the_same_bytes(self):
        for threads in ("1", "2", "3"):
            output = self.folder / f"threads-{threads}"
            subprocess.run(self.command(output, "--threads", threads), check=True, capture_output=True)
            self.assert_same(output)

    def test_calibration_makes_the_planned_bytes_on_any_threads_and_after_kills(self):
        flags, outputs = ("--calibrate", "on", "--gradients", "on", "--calibrate-steps", "2"), []
        for threads in ("1", "3"):
            outputs.append(self.folder / f"calibrated-{threads}")
            start = time.monotonic()
            subprocess.run(self.command(outputs[-1], *flags, "--threads", threads), check=True, capture_output=True)
            duration = time.monotonic() - start
        outputs.append(self.folder / "calibrated-killed")
        generator = random.Random(7)
        for attempt in range(4):
            process = self.start(outputs[-1], *flags, "--resume")
            time.sleep(generator.uniform(0.1, 0.9) * duration)
            process.kill()
            process.communicate()
            if outputs[-1].exists():
                shutil.rmtree(outputs[-1])
        subprocess.run(self.command(outputs[-1], *flags, "--resume"), check=True, capture_output=True)
        made = [contents(output) for output in outputs]
        for other in made[1:]:
            self.assertEqual(list(other), list(made[0]))
            for name in other:
                self.assertTrue(other[name] == made[0][name], f"{name} differs")
        plan = json.loads(self.succeeds(*self.command(self.folder / "dry", *flags, "--dry-run", "--json")[1:]).stdout)
        self.assertEqual(plan["bytes"], sum(map(len, made[0].values())))
        record = json.loads(made[0]["turboquant.json"])["block_calibration"]
        errors = record["errors_plain_calibrated"]
        self.assertEqual(len(errors), self.layers)
        self.assertRegex(record["kept"], f"^[yn]{{{self.layers}}}$")
        for (plain, calibrated), kept in zip(errors, record["kept"]):
            self.assertTrue(kept == "n" or float(calibrated) < float(plain))
        self.assertTrue(all(float(plain) > 0 and float(calibrated) > 0 for plain, calibrated in errors))

    def test_windows_are_those_of_the_effort_that_is_asked_for_and_longer_beside_calibration(self):
        calibrated = ("--calibrate", "on", "--calibrate-steps", "1")
        cases = [((), 9), (("--rounding", "normal"), 12), (calibrated, 12), ((*calibrated, "--rounding", "fast"), 9)]
        for i, (flags, window) in enumerate(cases):
            output = self.folder / f"windows-{i}"
            subprocess.run(self.command(output, *flags), check=True, capture_output=True)
            self.assertEqual(json.loads((output / "turboquant.json").read_text())["windows"]["3"], window, flags)

    def test_gradients_and_allocation_make_the_same_bytes_on_any_threads_and_after_kills(self):
        flags, outputs = ("--gradients", "on", "--allocate", "on"), []
        for threads in ("1", "3"):
            outputs.append(self.folder / f"allocated-{threads}")
            start = time.monotonic()
            subprocess.run(self.command(outputs[-1], *flags, "--threads", threads), check=True, capture_output=True)
            duration = time.monotonic() - start
        outputs.append(self.folder / "allocated-killed")
        generator = random.Random(6)
        for attempt in range(4):
            process = self.start(outputs[-1], *flags, "--resume")
            time.sleep(generator.uniform(0.1, 0.9) * duration)
            process.kill()
            process.communicate()
            if outputs[-1].exists():
                shutil.rmtree(outputs[-1])
        subprocess.run(self.command(outputs[-1], *flags, "--resume"), check=True, capture_output=True)
        made = [contents(output) for output in outputs]
        for other in made[1:]:
            self.assertEqual(list(other), list(made[0]))
            for name in other:
                self.assertTrue(other[name] == made[0][name], f"{name} differs")
        record = json.loads(made[0]["turboquant.json"])
        self.assertTrue(record["gradients"])
        allocation = record["allocation"]
        kinds = ("uniform", "promotions", "moves", "ranges", "repriced")
        measured = {kind: float(allocation["kl_" + kind]) for kind in kinds if allocation["kl_" + kind] is not None}
        plan = json.loads(self.succeeds(*self.command(self.folder / "dry", *flags, "--dry-run", "--json")[1:]).stdout)
        self.assertLessEqual(sum(map(len, made[0].values())), plan["bytes_at_most"])
        self.assertGreaterEqual(set(measured), {"uniform", "promotions", "moves", "ranges"})
        self.assertEqual(measured[allocation["chosen"].strip()], min(measured.values()))
        self.assertIn("KL on held-out text: uniform", made[0]["report.html"].decode())

    def test_a_target_ties_rates_and_says_what_that_costs(self):
        output = self.folder / "tied"
        flags = ("--target", "vllm", "--allocate", "on")
        summary = self.succeeds(*self.command(output, *flags)[1:]).stdout
        self.assertIn("tied for vllm, which costs about 0.", summary)
        self.assertIn("an estimate", summary)
        record = json.loads((output / "turboquant.json").read_text())
        self.assertEqual(record["allocation"]["target"], "vllm")
        self.assertGreaterEqual(float(record["allocation"]["kl_ties_estimated"]), 0)
        for layer in range(self.layers):
            rates = {name.rsplit(".", 1)[1]: rate for name, rate in record["rates"].items() if name.startswith(f"model.layers.{layer}.")}
            self.assertEqual(len({rates[name] for name in ("q_proj", "k_proj", "v_proj")}), 1, rates)
            self.assertEqual(rates["gate_proj"], rates["up_proj"])
            self.assertTrue(all(float(rate) == int(float(rate)) for rate in rates.values()), rates)
        self.assertIn("Tied for vllm, which costs about", (output / "report.html").read_text())
        plain = self.folder / "tied-plainly"
        result = json.loads(self.succeeds(*self.command(plain, "--target", "gguf", "--json")[1:]).stdout)
        self.assertEqual(result["allocation"], {"chosen": "uniform", "target": "gguf"})
        self.assertIsNone(result["tuning"])
        self.fails(2, *self.command(self.folder / "x", "--target", "tpu")[1:], says="gguf, vllm or sglang")

    def test_tuning_makes_the_same_bytes_on_any_threads_and_after_kills(self):
        flags, outputs = ("--tune", "on", "--tune-steps", "6"), []
        plan = json.loads(self.succeeds(*self.command(self.folder / "tuned-dry", *flags, "--dry-run", "--json")[1:]).stdout)
        self.assertGreater(plan["seconds_tuning"], 0)
        for threads in ("1", "3"):
            outputs.append(self.folder / f"tuned-{threads}")
            start = time.monotonic()
            result = self.succeeds(*self.command(outputs[-1], *flags, "--json", "--threads", threads)[1:])
            duration = time.monotonic() - start
        outputs.append(self.folder / "tuned-killed")
        generator = random.Random(7)
        for attempt in range(2):
            process = self.start(outputs[-1], *flags, "--resume")
            time.sleep(generator.uniform(0.3, 0.9) * duration)
            process.kill()
            process.communicate()
            if outputs[-1].exists():
                shutil.rmtree(outputs[-1])
        subprocess.run(self.command(outputs[-1], *flags, "--resume"), check=True, capture_output=True)
        made = [contents(output) for output in outputs]
        for other in made[1:]:
            self.assertEqual(list(other), list(made[0]))
            for name in other:
                self.assertTrue(other[name] == made[0][name], f"{name} differs")
        self.assertEqual(sum(map(len, made[0].values())), plan["bytes"])
        tuning, record = json.loads(result.stdout)["tuning"], json.loads(made[0]["turboquant.json"])["tuning"]
        self.assertEqual((tuning["steps"], record["steps"], len(tuning["loss_by_step"])), (6, 6, 6))
        self.assertEqual([point["step"] for point in tuning["held_out"]], [0, 1, 2, 3, 4, 5, 6])
        texts = {"web", "encyclopedia", "code", "functions", "arithmetic", "languages", "technical"}
        self.assertEqual(set(tuning["held_out"][0]["kl_by_text"]), texts)
        self.assertLessEqual(float(record["kl_after"]), float(record["kl_before"]))

    def test_a_size_is_kept_and_rates_of_a_file_are_used(self):
        sized = self.folder / "sized"
        limit = 9 * sum(map(len, contents(self.reference).values())) // 8
        command = [TQ, "quantize", str(self.model), "-o", str(sized), "--size", str(limit), *QUANTIZE]
        subprocess.run(command, check=True, capture_output=True)
        size = sum(map(len, contents(sized).values()))
        self.assertLessEqual(size, limit)
        self.assertGreater(size, limit - 8192)
        rates, output = self.folder / "rates.json", self.folder / "rated"
        rates.write_text(json.dumps({"*": 3, "model.layers.0.mlp.down_proj": 5}))
        self.succeeds("quantize", self.model, "-o", output, "--rates", rates, *QUANTIZE)
        record = json.loads(contents(output)["turboquant.json"])
        self.assertEqual(float(record["rates"]["model.layers.0.mlp.down_proj"]), 5)
        self.assertEqual(float(record["rates"]["model.layers.1.mlp.down_proj"]), 3)
        rates.write_text(json.dumps({"*": 3, "no.such.linear": 5}))
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--rates", rates, *QUANTIZE, says="no.such.linear")
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--size", "1kB", *QUANTIZE, says="fewest")
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", *QUANTIZE, says="--size")
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--fit", "1kB", "--batch", "3", *QUANTIZE, says="3 x 128 tokens")
        rates.write_text(json.dumps({"*": 3, "model.layers.0.self_attn.v_proj": 4}))
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--rates", rates, "--target", "vllm", *QUANTIZE, says="v_proj")

    def test_killed_at_ten_points_and_resumed_makes_the_same_bytes(self):
        generator, output, kills = random.Random(5), self.folder / "killed", 0
        for attempt in range(60):
            if kills == 10:
                break
            process = self.start(output, "--resume")
            time.sleep(generator.uniform(0.0, 0.8) * self.duration)
            process.kill()
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            if output.exists():  # it was done before the kill
                self.assert_same(output)
                shutil.rmtree(output)
        self.assertEqual(kills, 10)
        result = subprocess.run(self.command(output, "--resume"), capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_same(output)
        self.assertFalse((self.folder / "killed.partial").exists())

    def test_an_interrupt_is_status_5_and_tells_how_to_resume(self):
        output = self.folder / "interrupted"
        process = self.start(output)
        while process.poll() is None and not (self.folder / "interrupted.partial").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        self.assertEqual(process.returncode, 5, errors)
        self.assertIn("--resume", errors.splitlines()[-1])
        self.assertFalse(output.exists())
        again = subprocess.run(self.command(output), capture_output=True, text=True)
        self.assertEqual(again.returncode, 2)
        self.assertIn("--resume", again.stderr)
        subprocess.run(self.command(output, "--resume"), check=True, capture_output=True)
        self.assert_same(output)

    def test_resume_refuses_the_work_of_other_options(self):
        output = self.folder / "other"
        process = self.start(output)
        self.wait_for_job(process, output)
        process.kill()
        process.communicate()
        self.assertFalse(output.exists())
        self.fails(2, "quantize", self.model, "-o", output, "--bits", "4", *QUANTIZE, "--resume", says="other options")

    def test_resume_publishes_no_complete_work_of_other_options(self):
        output, partial = self.folder / "complete", self.folder / "complete.partial"
        process = self.start(output)
        job = self.wait_for_job(process, output).read_text()
        process.kill()
        process.communicate()
        shutil.rmtree(partial)
        shutil.copytree(self.reference, partial)  # as a kill leaves it between the removal of the steps and that of the job
        (partial / "job").write_text(job)
        self.fails(2, "quantize", self.model, "-o", output, "--bits", "4", "--seed", "7", *QUANTIZE, "--resume", says="other options")
        self.assertFalse(output.exists())
        subprocess.run(self.command(output, "--resume"), check=True, capture_output=True)
        self.assert_same(output)

    def test_two_runs_do_not_share_a_folder(self):
        output = self.folder / "shared"
        process = self.start(output)
        self.wait_for_job(process, output)
        process.send_signal(signal.SIGSTOP)
        self.fails(1, *self.command(output, "--resume")[1:], says="another process")
        process.send_signal(signal.SIGCONT)
        process.communicate()
        self.assertEqual(process.returncode, 0)
        self.assert_same(output)

    def test_convert_leaves_the_work_of_quantize_alone(self):
        output, partial = self.folder / "kept", self.folder / "kept.partial"
        process = self.start(output)
        self.wait_for_job(process, output)
        process.kill()
        process.communicate()
        before = contents(partial)
        self.fails(2, "convert", self.model, "-o", output, says="--resume")
        self.assertEqual(contents(partial), before)
        shutil.rmtree(partial)

    def test_the_summary_of_a_complete_folder_is_its_own(self):
        flags, output = ("--allocate", "on", "--json"), self.folder / "summed"
        partial = output.with_name("summed.partial")
        made = json.loads(self.succeeds(*self.command(output, *flags)[1:]).stdout)
        output.rename(self.folder / "made")
        process = self.start(output, *flags)
        job = self.wait_for_job(process, output).read_text()
        process.kill()
        process.communicate()
        shutil.rmtree(partial)
        (self.folder / "made").rename(partial)  # as a kill leaves it between the removal of the steps and that of the job
        (partial / "job").write_text(job)
        told = json.loads(self.succeeds(*self.command(output, *flags, "--resume")[1:]).stdout)
        self.assertFalse(partial.exists())
        self.assertEqual(told["bytes"], sum(map(len, contents(output).values())))
        for key in ("bytes", "bits_linears", "bits_linears_stored", "rates", "inputs", "experts"):
            self.assertEqual(told[key], made[key], key)
        self.assertEqual(told["allocation"].keys(), made["allocation"].keys())
        self.assertEqual(told["allocation"]["chosen"], made["allocation"]["chosen"])
        self.assertEqual(list(told["relative_error"]), list(made["relative_error"]))
        for name, error in made["relative_error"].items():
            self.assertAlmostEqual(told["relative_error"][name], error, delta=1e-5 * error, msg=name)

    def test_resume_refuses_a_source_that_changed(self):
        model, output = self.folder / "touched", self.folder / "of-touched"
        shutil.copytree(self.model, model)
        command = [TQ, "quantize", str(model), "-o", str(output), "--bits", "2.5", *QUANTIZE]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_for_job(process, output)
        process.kill()
        process.communicate()
        os.utime(model / "model.safetensors", (1, 1))
        self.fails(2, *command[1:], "--resume", says="another source")

    def test_resume_refuses_what_another_kind_of_processor_began(self):
        output = self.folder / "of-another-isa"
        command = [TQ, "quantize", str(self.model), "-o", str(output), "--bits", "2.5", *QUANTIZE]
        process = subprocess.Popen([*command, "--isa", "generic"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        job = self.folder / "of-another-isa.partial" / "job"
        while process.poll() is None and not (job.exists() and "generic" in job.read_text()):
            time.sleep(0.002)
        process.kill()
        process.communicate()
        self.assertFalse(output.exists())
        job.write_text(job.read_text().replace("(generic)", "(another)"))  # whatever this machine's best is
        self.fails(2, *command[1:], "--isa", "generic", "--resume", says="(another)")

    def test_rivals_are_quantized_and_run(self):
        text = self.folder / "rivals.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        divergence = {}
        for method, bits in (("rtn", "3"), ("gptq", "3"), ("awq", "3"), ("gptq", "8"), ("awq", "8")):
            output = self.folder / f"{method}-{bits}"
            command = ["quantize", self.model, "-o", output, "--bits", bits, "--method", method, "--head", "original", "--embedding",
                       "original", *QUANTIZE]  # fmt: skip
            plan = json.loads(self.succeeds(*command, "--dry-run", "--json").stdout)
            self.succeeds(*command)
            self.assertEqual(plan["bytes"], sum(map(len, contents(output).values())))
            result = json.loads(self.succeeds("eval", output, "--against", self.model, "--text", text, "--window", "64", "--windows", "4",
                                              "--json").stdout)  # fmt: skip
            divergence[method, bits] = result["texts"][0]["kl"]["mean"]
        self.assertLess(divergence["gptq", "3"], divergence["rtn", "3"])
        for method in ("gptq", "awq"):  # at 8 bits next to nothing is lost, so what AWQ folds must cancel
            self.assertLess(divergence[method, "8"], 1e-3)
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--bits", "2.5", "--method", "gptq", says="whole bits")
        self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--bits", "3", "--method", "magic", says="magic")
        self.fails(3, "quantize", self.model, "-o", self.folder / "x", "--bits", "3", "--method", "quip", says="multiple of 8")
        three = ("quantize", self.model, "-o", self.folder / "x", "--bits", "3")
        for method in ("rtn", "gptq", "awq", "quip"):
            self.fails(2, *three, "--method", method, "--passes", "1", says="--passes")
            self.fails(2, *three, "--method", method, "--rounding", "best", says="--rounding")
        self.fails(2, *three, "--rounding", "well", says="fast, normal or best")
        for flag in ("--calibrate", "--tune", "--allocate"):
            self.fails(2, "quantize", self.model, "-o", self.folder / "x", "--bits", "3", "--method", "gptq", flag, "on", says=flag)

    def test_a_changed_byte_is_found(self):
        output = self.folder / "changed"
        shutil.copytree(self.reference, output)
        self.assertIn("all weights are what was written", self.succeeds("inspect", output, "--verify").stdout)
        self.assertIs(json.loads(self.succeeds("inspect", output, "--verify", "--json").stdout)["verified"], True)
        self.assertNotIn("verified", json.loads(self.succeeds("inspect", output, "--json").stdout))
        weights = output / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        self.fails(3, "inspect", output, "--verify", says="model.safetensors")

    def test_both_models_are_inspected_run_and_compared(self):
        facts = json.loads(self.succeeds("inspect", self.reference, "--json").stdout)
        self.assertLess(facts["bytes"], json.loads(self.succeeds("inspect", self.model, "--json").stdout)["bytes"] / 2)
        self.assertRegex(self.succeeds("inspect", self.reference, "--plan").stdout, r"lm_head +1-8: .+ \| 9 and more: .+")
        answer = ["run", self.reference, "Hello", "-n", "8", "--temperature", "0", "--json", "--raw", "--ignore-end"]
        first, second = (json.loads(self.succeeds(*answer, "-t", threads).stdout) for threads in "12")
        self.assertEqual((first["text"], first["logits_hash"]), (second["text"], second["logits_hash"]))
        self.assertEqual(first["answer_tokens"], 8)
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        result = json.loads(self.succeeds("eval", self.reference, "--against", self.model, "--text", text, "--window", "64", "--windows",
                                          "4", "--json").stdout)  # fmt: skip
        self.assertGreater(result["texts"][0]["kl"]["mean"], 0)


if __name__ == "__main__":
    unittest.main()
