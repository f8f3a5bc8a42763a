"""What tq bench refuses before it measures, and that it measures all."""

import json
import unittest

from tiny_model import ProgramTest


class Bench(ProgramTest):
    layers = 1

    def test_what_is_wrong_with_one_model_is_said_before_another_is_measured(self):
        for flags in ([], ["--json"]):
            self.fails(3, "bench", self.model, self.folder / "typo", "--prompt", "8", "-n", "4", *flags, says="typo")

    def test_a_prompt_beyond_the_context_is_said_before_anything_is_printed(self):
        says = f"{self.model} was made for 128"
        for flags in (["--prompt", "129"], ["--prompt", "100", "-n", "29", "--streams", "2"], ["--prompt", "8", "-n", "8", "--depth", "0,121"]):
            self.fails(2, "bench", self.model, *flags, says=says)

    def test_models_and_random_ones_are_not_measured_together(self):
        self.fails(2, "bench", says="give a model, or --random")
        self.fails(2, "bench", self.model, "--random", "llama-3-8b", says="give a model or --random llama-3-8b, not both")

    def test_all_models_are_measured(self):
        flags = ["--streams", "1,2", "--prompt", "8", "-n", "4", "--repeat", "1", "--json"]
        results = json.loads(self.succeeds("bench", self.model, self.model, *flags).stdout)["results"]
        self.assertEqual([(each["model"], [one["streams"] for one in each["streams"]]) for each in results], [(str(self.model), [1, 2])] * 2)


if __name__ == "__main__":
    unittest.main()
