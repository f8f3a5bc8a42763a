"""The artifact is the same bytes however it came about: threads, interruptions, kills."""

import json
import random
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

    def assert_same(self, output):
        made, wanted = contents(output), contents(self.reference)
        self.assertEqual(list(made), list(wanted))
        for name in wanted:
            self.assertTrue(made[name] == wanted[name], f"{name} differs")

    def test_dry_run_tells_the_size_and_writes_nothing(self):
        output = self.folder / "dry"
        plan = json.loads(self.succeeds(*self.command(output, "--dry-run", "--json")[1:]).stdout)
        self.assertFalse(output.exists())
        subprocess.run(self.command(output), check=True, capture_output=True)
        self.assertEqual(plan["bytes"], sum(map(len, contents(output).values())))
        counted = int(subprocess.run(["du", "-sb", output], check=True, capture_output=True, text=True).stdout.split()[0])
        entry = int(subprocess.run(["stat", "-c", "%s", output], check=True, capture_output=True, text=True).stdout)
        self.assertEqual(plan["bytes"] + entry, counted)
        self.assertAlmostEqual(plan["bits_linears"], 2.5, delta=0.01)

    def test_one_thread_and_two_make_the_same_bytes(self):
        for threads in ("1", "2", "3"):
            output = self.folder / f"threads-{threads}"
            subprocess.run(self.command(output, "--threads", threads), check=True, capture_output=True)
            self.assert_same(output)

    def test_killed_at_ten_points_and_resumed_makes_the_same_bytes(self):
        generator, output, kills = random.Random(5), self.folder / "killed", 0
        for attempt in range(10):
            process = self.start(output, "--resume")
            time.sleep(generator.uniform(0.0, 1.0) * self.duration)
            process.kill()
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            if output.exists():  # it was done before the kill
                self.assert_same(output)
                shutil.rmtree(output)
        self.assertGreaterEqual(kills, 3)
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
        while process.poll() is None and not (self.folder / "other.partial" / "job").exists():
            time.sleep(0.002)
        process.kill()
        process.communicate()
        self.assertFalse(output.exists())
        self.fails(2, "quantize", self.model, "-o", output, "--bits", "4", *QUANTIZE, "--resume", says="other options")

    def test_a_changed_byte_is_found(self):
        output = self.folder / "changed"
        shutil.copytree(self.reference, output)
        self.succeeds("inspect", output, "--verify")
        weights = output / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        self.fails(3, "inspect", output, "--verify", says="model.safetensors")

    def test_both_models_are_inspected_run_and_compared(self):
        facts = json.loads(self.succeeds("inspect", self.reference, "--json").stdout)
        self.assertLess(facts["bytes"], json.loads(self.succeeds("inspect", self.model, "--json").stdout)["bytes"] / 2)
        self.assertIn("lm_head", self.succeeds("inspect", self.reference, "--plan").stdout)
        answer = ["run", self.reference, "Hello", "-n", "8", "--temperature", "0", "--json", "--raw", "--ignore-end"]
        first, second = (json.loads(self.succeeds(*answer, "-t", threads).stdout) for threads in "12")
        self.assertEqual((first["text"], first["logits_hash"]), (second["text"], second["logits_hash"]))
        self.assertEqual(first["answer_tokens"], 8)
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        result = json.loads(self.succeeds("eval", self.reference, "--against", self.model, "--text", text, "--window", "64", "--windows",
                                          "4", "--json").stdout)  # fmt: skip
        self.assertGreater(result["texts"][0]["kl"]["mean"], 0)

    def test_convert_writes_a_directory_that_gives_the_same_logits(self):
        output = self.folder / "plain"
        self.succeeds("convert", self.model, "-o", output, "--dtype", "bf16")
        hashes = [json.loads(self.succeeds("run", model, "Hello", "-n", "4", "--temperature", "0", "--json", "--raw").stdout)["logits_hash"]
                  for model in (self.model, output)]  # fmt: skip
        self.assertEqual(*hashes)


if __name__ == "__main__":
    unittest.main()
