"""What bad input gets: one line, the exit status of its kind, nothing left behind."""

import json
import os
import resource
import shutil
import struct
import subprocess
import time
import unittest

from tiny_model import DATA, QUANTIZE, TQ, ProgramTest, run


class Errors(ProgramTest):
    layers = 1

    def changed_model(self, name):
        """A copy of the model to damage."""
        folder = self.folder / name
        shutil.copytree(self.model, folder)
        return folder

    def quantize_fails(self, status, model, *flags, says="", **keywords):
        folder = self.folder / "outputs"
        folder.mkdir()
        try:
            self.fails(status, "quantize", model, "-o", folder / "out", "--bits", "3", *QUANTIZE, *flags, says=says, **keywords)
            left = [path.name for path in folder.iterdir()]
            self.assertIn(left, ([], ["out.partial"]) if keywords else ([],))  # work is kept when the disk is full
        finally:
            shutil.rmtree(folder)

    def test_help_is_instant_and_succeeds(self):
        durations = []
        for _ in range(5):
            start = time.monotonic()
            result = self.succeeds("--help")
            durations.append(time.monotonic() - start)
        self.assertIn("quantize", result.stdout)
        self.assertLess(min(durations), 0.05)
        self.assertIn("--bits", self.succeeds("quantize", "--help").stdout)

    def test_version(self):
        self.assertRegex(self.succeeds("--version").stdout, r"^tq \d+\.\d+\.\d+, build ([0-9a-f]{12}|unknown)\n$")

    def test_wrong_usage_is_status_2(self):
        self.fails(2)
        self.fails(2, "inspect")
        self.fails(2, "inspect", self.model, "--no-such-flag", says="--no-such-flag")
        self.fails(2, "no-such-command", says="no-such-command")
        self.fails(2, "quantise", self.model, says="did you mean 'quantize'?")
        self.fails(2, "quantize", self.model, "-o", self.folder / "out", says="bits")
        self.fails(2, "quantize", self.model, "-o", self.folder / "out", "--bits", "many", says="bits")
        self.fails(2, "run", self.model, "hello", "--isa", "sse9", says="sse9")
        self.fails(2, "inspect", self.model, "--plan", "--json", says="--plan excludes --json")
        for flag, value in (("--backend", "cpu"), ("--isa", "generic"), ("--gpus", "2"), ("--split", "layer"), ("--threads", "1")):
            self.fails(2, "inspect", self.model, flag, value, says=f"{flag} goes with --plan")
        self.fails(2, "bench", self.model, "--bits", "3", says="--bits goes with --random")
        self.fails(2, "convert", self.model, "-o", self.folder / "out", "--dtype", "f12", says="f12")

    def test_wrong_values_are_status_2(self):
        for flags in (["--bits", "1.5"], ["--bits", "9"], ["--bits", "nan"], ["--effort", "huge"], ["--head", "9"], ["--threads", "-1"]):
            self.fails(2, "quantize", self.model, "-o", self.folder / "out", *([] if "--bits" in flags else ["--bits", "3"]), *flags)

    def test_fractions_out_of_range_and_none_at_all_are_status_2(self):
        quantize = ["quantize", self.model, "-o", self.folder / "out", "--bits", "3"]
        for flag in ("--damping", "--tune-rate", "--calibrate-weight-rate", "--calibrate-vector-rate"):
            for value in ("nan", "2", "inf", "0.1x"):
                self.fails(2, *quantize, flag, value, says=f"{flag}: {value} is not from ")
        for value in ("nan", "11"):
            self.fails(2, "eval", self.model, "--temperature", value, says=f"--temperature: {value} is not from 0 to 10")

    def test_numbers_of_more_than_64_bits_are_status_2(self):
        quantize = ["quantize", self.model, "-o", self.folder / "out", "--bits", "3"]
        for flags in ([*quantize, "--seed", str(2**64)], [*quantize, "--seed", "-1"], [*quantize, "--calibration-tokens", str(2**63)],
                      ["run", self.model, "hello", "--seed", str(2**64)], ["bench", self.model, "--seed", str(2**64)]):  # fmt: skip
            self.fails(2, *flags, says=flags[-2])

    def test_commands_that_do_not_exist_yet_are_status_2(self):
        for command in ("pull", "serve", "export", "finetune", "push"):
            self.fails(2, command, "x", "--to", "gguf", says="does not exist yet")

    def test_a_missing_model_is_status_3(self):
        self.fails(3, "inspect", self.folder / "nowhere", says="nowhere")
        empty = self.folder / "empty"
        empty.mkdir()
        self.fails(3, "inspect", empty, says="config.json")
        self.fails(3, "run", self.folder / "nowhere", "hello", says="nowhere")

    def test_an_unknown_architecture_is_status_3(self):
        folder = self.changed_model("unknown")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["PerceptronForCausalLM"]}))
        self.quantize_fails(3, folder, says="PerceptronForCausalLM")
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Two\nLines\x1b[2J"]}))
        self.quantize_fails(3, folder, says="Two?Lines?[2J")

    def test_settings_of_the_wrong_type_are_status_3(self):
        wrong = {"quantization_config": 5, "rope_scaling": "linear", "hidden_size": "64", "num_hidden_layers": 2**63, "vocab_size": 10**12,
                 "num_attention_heads": 0, "rope_theta": -5.0}  # fmt: skip
        for number, (key, value) in enumerate([*wrong.items(), ("quantization_config", {"quant_method": 5})]):
            folder = self.changed_model(f"type{number}")
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {key: value}))
            self.fails(3, "convert", folder, "-o", self.folder / "no", says=str(folder))

    def test_a_setting_that_is_null_is_not_there(self):
        folder = self.changed_model("null")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": None, "rope_scaling": None}))
        self.succeeds("inspect", folder)

    def test_results_that_cannot_be_printed_are_status_4(self):
        with open("/dev/full", "w") as full:
            for flags in (["inspect", self.model], ["inspect", self.model, "--json"]):
                result = subprocess.run([TQ, *map(str, flags)], stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertEqual((result.returncode, result.stderr.count("\n")), (4, 1), result.stderr)

    def test_a_configuration_that_is_no_json_is_status_3(self):
        folder = self.changed_model("syntax")
        (folder / "config.json").write_text('{"architectures": ["Llama')
        self.quantize_fails(3, folder, says="config.json")

    def test_a_missing_tokenizer_is_status_3(self):
        folder = self.changed_model("mute")
        (folder / "tokenizer.json").unlink()
        self.quantize_fails(3, folder, says="tokenizer")
        self.fails(3, "run", folder, "hello", says="tokenizer")
        (folder / "tokenizer.json").symlink_to("tokenizer.json")
        self.fails(3, "inspect", folder, says="tokenizer.json: cannot be examined")

    def test_a_chat_template_of_no_name_is_not_the_default(self):
        folder = self.changed_model("unnamed")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": None, "template": "x"}]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        self.succeeds("inspect", folder)

    def test_weights_that_are_whole_numbers_are_status_3(self):
        folder = self.changed_model("whole")
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights.replace(b'"dtype": "BF16"', b'"dtype": "I16" '))
        self.quantize_fails(3, folder, says="I16")

    def test_truncated_weights_are_status_3(self):
        folder = self.changed_model("cut")
        weights = (folder / "model.safetensors").read_bytes()
        for length in (0, 7, 100, len(weights) // 2, len(weights) - 1):
            (folder / "model.safetensors").write_bytes(weights[:length])
            self.quantize_fails(3, folder, says="model.safetensors")
        (folder / "model.safetensors").unlink()
        self.quantize_fails(3, folder, says="cut")

    def test_a_header_of_any_size_is_status_3(self):
        folder = self.changed_model("header")
        weights = (folder / "model.safetensors").read_bytes()
        for size in (0, 1 << 40, 1 << 63, (1 << 64) - 1):
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + weights[8:])
            self.quantize_fails(3, folder, says="model.safetensors")

    def test_a_weight_that_is_no_number_is_status_3(self):
        folder = self.changed_model("nan")
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-2:] = b"\xc0\x7f"  # of the head, which comes last
        (folder / "model.safetensors").write_bytes(weights)
        output = self.folder / "unsound"
        result = run("quantize", folder, "-o", output, "--bits", "3", *QUANTIZE)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("lm_head", result.stderr.splitlines()[-1])
        self.assertFalse(output.exists())

    def test_a_weight_that_is_kept_and_no_number_is_status_3(self):
        folder = self.changed_model("nan-kept")
        weights = bytearray((folder / "model.safetensors").read_bytes())
        (length,) = struct.unpack("<Q", weights[:8])
        header = json.loads(weights[8 : 8 + length])
        begin, end = header["model.embed_tokens.weight"]["data_offsets"]
        weights[8 + length + end - 2 : 8 + length + end] = b"\xc0\x7f"  # of a token that no text has
        (folder / "model.safetensors").write_bytes(weights)
        damage = f"{folder}: tensor model.embed_tokens.weight holds values that are no finite numbers"
        for flags in (["--method", "turboquant"], ["--method", "gptq"], ["--method", "awq"], ["--gradients", "on"], ["--calibrate", "on"]):
            self.quantize_fails(3, folder, "--embedding", "original", *flags, says=damage)
        self.fails(3, "convert", folder, "-o", self.folder / "no", says=damage)

    def test_a_truncated_gguf_file_is_status_3(self):
        gguf = (DATA / "io" / "pypi.gguf").read_bytes()
        for length in (0, 3, 20, len(gguf) // 2, len(gguf) - 1):
            path = self.folder / "cut.gguf"
            path.write_bytes(gguf[:length])
            self.fails(3, "inspect", path, says="cut.gguf")
            path.unlink()

    def test_calibration_of_less_than_a_sequence_is_status_2(self):
        for more in ([], ["--dry-run"]):
            self.fails(2, "quantize", self.model, "-o", self.folder / "no", "--bits", "3", "--calibration-tokens", "127", *more,
                       says="--calibration-tokens 127: less than one sequence of 128")  # fmt: skip

    def test_calibration_text_from_a_pipe_is_status_3(self):
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        self.quantize_fails(3, self.model, "--calibration", pipe, says="pipe: a pipe cannot be read twice; give a file")
        pipe.unlink()

    def test_hashes_of_what_has_none_are_status_3(self):
        self.fails(3, "inspect", self.model, "--verify", says=f"{self.model}: no artifact of tq, so it has no hashes to be checked")

    def test_calibration_text_that_is_too_short_is_status_3(self):
        text = self.folder / "short.txt"
        text.write_text("Too short.")
        self.quantize_fails(3, self.model, "--calibration", text, says="short.txt: 10 tokens, less than one sequence of 128")
        text.unlink()
        self.quantize_fails(3, self.model, "--calibration", self.folder / "missing.txt", says="missing.txt")

    def test_a_context_without_room_for_text_is_status_3(self):
        folder = self.changed_model("narrow")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1}))
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"bos_token": "<|end|>", "add_bos_token": True}))
        self.quantize_fails(3, folder, says="context")

    def test_an_output_that_exists_is_status_2_and_stays(self):
        folder = self.folder / "taken"
        folder.mkdir()
        (folder / "diary").write_text("dear")
        self.fails(2, "quantize", self.model, "-o", folder, "--bits", "3", *QUANTIZE, says="taken")
        self.assertEqual((folder / "diary").read_text(), "dear")
        shutil.rmtree(folder)

    def test_a_partial_output_of_somebody_else_is_status_2_and_stays(self):
        folder = self.folder / "somebodys.partial"
        folder.mkdir()
        (folder / "diary").write_text("dear")
        output, quantize = folder.with_suffix(""), ["--bits", "3", *QUANTIZE]
        for command in (["convert", self.model, "-o", output], ["quantize", self.model, "-o", output, *quantize],
                        ["quantize", self.model, "-o", output, *quantize, "--resume"]):  # fmt: skip
            self.fails(2, *command, says="somebodys.partial")
            self.assertEqual([path.name for path in folder.iterdir()], ["diary"])
        self.assertEqual((folder / "diary").read_text(), "dear")
        shutil.rmtree(folder)

    def test_a_full_disk_is_status_4(self):
        def limit():  # files grow no further, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        self.quantize_fails(4, self.model, says="space", preexec_fn=limit)

    def test_an_output_nobody_may_write_fails_with_one_line(self):
        path = self.folder / "file"
        path.write_text("")
        self.fails(1, "quantize", self.model, "-o", path / "out", "--bits", "3", *QUANTIZE, says="file")
        path.unlink()

    def test_facts_are_json(self):
        self.assertEqual(json.loads(self.succeeds("inspect", self.model, "--json").stdout)["family"], "llama")


if __name__ == "__main__":
    unittest.main()
