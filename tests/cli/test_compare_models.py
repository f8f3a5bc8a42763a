"""scripts/compare-models: tables of several models by one command."""

import pathlib
import shutil
import subprocess
import unittest

from tiny_model import QUANTIZE, TQ, ProgramTest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/compare-models"


class CompareModels(ProgramTest):
    layers = 1

    def run_script(self, *models):
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        flags = ["--bits", "3", "--methods", "turboquant,rtn", "--windows", "2", "--window", "64", "--text", text, *QUANTIZE]
        return subprocess.run([SCRIPT, self.folder / "out", *models, "--tq", TQ, "--", *flags], capture_output=True, text=True, check=False)

    def test_every_model_has_its_column_and_what_is_done_is_kept(self):
        other = self.folder / "other-0.5"
        shutil.copytree(self.model, other)
        first = self.run_script(self.model)
        self.assertEqual(first.returncode, 0, first.stderr)
        made = {path: path.stat().st_mtime_ns for path in (self.folder / "out").rglob("*.safetensors")}
        self.assertTrue(made)
        second = self.run_script(self.model, other)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertEqual(made, {path: path.stat().st_mtime_ns for path in made})
        tables = (self.folder / "out/tables.md").read_text()
        self.assertTrue(tables.startswith(f"| KL on text.txt | {self.model.name}, fast | other-0.5, fast |"), tables)
        self.assertEqual(tables.count("| TurboQuant, 3 |"), 2)
        self.assertEqual(tables.count("| RTN g"), 2)

    def test_what_fails_is_said_by_the_program_and_two_names_must_differ(self):
        missing = self.run_script(self.folder / "missing")
        self.assertNotEqual(missing.returncode, 0)
        self.assertIn("no such file or directory", missing.stderr)
        twice = self.run_script(self.model, self.model)
        self.assertIn("two models have one name", twice.stderr)


if __name__ == "__main__":
    unittest.main()
