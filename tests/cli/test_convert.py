"""tq convert gives the same model, and removes nothing but its own work."""

import json
import unittest

from tiny_model import ProgramTest


class Convert(ProgramTest):
    def test_convert_removes_of_a_killed_one_what_that_had_listed(self):
        output, partial = self.folder / "converted-again", self.folder / "converted-again.partial"
        partial.mkdir()
        listed = ["config.json", "model.safetensors", "model-00002-of-00002.safetensors", "../model/config.json"]
        (partial / "convert").write_text("\n".join(["files of tq convert", *listed]))
        (partial / "model.safetensors.part").write_text("half")
        (partial / "model-00002-of-00002.safetensors").write_text("of another model")
        (partial / "diary").write_text("dear")
        self.fails(2, "convert", self.model, "-o", output, says="something else")
        self.assertEqual((partial / "diary").read_text(), "dear")
        (partial / "diary").unlink()
        self.succeeds("convert", self.model, "-o", output)
        self.assertFalse(partial.exists())
        names = sorted(path.name for path in output.iterdir())
        self.assertEqual(names, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
        self.assertTrue((self.model / "config.json").exists())

    def test_convert_writes_a_directory_that_gives_the_same_logits(self):
        output = self.folder / "plain"
        self.succeeds("convert", self.model, "-o", output, "--dtype", "bf16")
        hashes = [json.loads(self.succeeds("run", model, "Hello", "-n", "4", "--temperature", "0", "--json", "--raw").stdout)["logits_hash"]
                  for model in (self.model, output)]  # fmt: skip
        self.assertEqual(*hashes)


if __name__ == "__main__":
    unittest.main()
