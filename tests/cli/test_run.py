"""Answers and conversations, as a user at a terminal or a script sees them."""

import json
import os
import pty
import select
import signal
import subprocess
import time
import unittest

from tiny_model import TQ, ProgramTest, run, write_model

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'fail' %}{{ raise_exception('not today') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
GREEDY = ["--temperature", "0", "--ignore-end"]


class Terminal:
    """The program with a terminal for standard input, output and errors."""

    def __init__(self, *arguments):
        self.side, other = pty.openpty()
        self.process = subprocess.Popen([TQ, *map(str, arguments)], stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)
        self.text = ""

    def wait_for(self, text, seconds=20):
        """What came up to the text, which is then gone."""
        end = time.monotonic() + seconds
        while text not in self.text:
            if time.monotonic() > end:
                raise AssertionError(f"no {text!r} in {self.text!r}")
            if select.select([self.side], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.side, 65536).decode(errors="replace").replace("\r\n", "\n")
                except OSError:  # the program has ended
                    if text not in self.text:
                        raise AssertionError(f"no {text!r} in {self.text!r}") from None
        before, self.text = self.text.split(text, 1)
        return before

    def say(self, text):
        os.write(self.side, text.encode())

    def end(self):
        status = self.process.wait(60)
        os.close(self.side)
        return status


class Run(ProgramTest):
    layers = 1

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.chat = write_model(cls.folder / "chat", cls.layers)
        (cls.chat / "chat_template.jinja").write_text(TEMPLATE)
        config = json.loads((cls.chat / "config.json").read_text())
        (cls.chat / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 20}))

    def facts(self, *arguments, **keywords):
        return json.loads(self.succeeds("run", *arguments, "--json", **keywords).stdout)

    def test_the_template_writes_the_prompt(self):
        with_template = self.facts(self.chat, "hi", "-n", "3", *GREEDY)
        by_hand = self.facts(self.chat, "<user>hi<|end|><assistant>", "--raw", "-n", "3", *GREEDY)
        self.assertEqual((with_template["text"], with_template["logits_hash"]), (by_hand["text"], by_hand["logits_hash"]))
        self.assertEqual(with_template["prompt_tokens"], len("<user>hi") + 1 + len("<assistant>"))
        self.assertEqual(with_template["finish"], "length")
        with_system = self.facts(self.chat, "hi", "--system", "Be brief.", "-n", "1", *GREEDY)
        self.assertEqual(with_system["prompt_tokens"], with_template["prompt_tokens"] + len("<system>Be brief.") + 1)
        self.assertEqual(self.facts(self.chat, "<|end|>", "-n", "1", *GREEDY)["prompt_tokens"], with_template["prompt_tokens"] - 2 + 7)

    def test_another_template_and_its_variables(self):
        path = self.folder / "other.jinja"
        path.write_text("{{ mood }}{{ messages[-1].content }}")
        facts = self.facts(self.chat, "hi", "-n", "1", "--chat-template", path, "--chat-template-kwargs", '{"mood": "glad"}', *GREEDY)
        self.assertEqual(facts["prompt_tokens"], 6)
        self.fails(2, "run", self.chat, "hi", "--chat-template-kwargs", "[]", says="--chat-template-kwargs")

    def test_prompts_come_from_files_and_pipes_too(self):
        path = self.folder / "prompt.txt"
        path.write_text("hi\n")
        wanted = self.facts(self.chat, "hi", "-n", "2", *GREEDY)["logits_hash"]
        self.assertEqual(self.facts(self.chat, "-f", path, "-n", "2", *GREEDY)["logits_hash"], wanted)
        piped = subprocess.run([TQ, "run", self.chat, "-n", "2", "--json", *GREEDY], input="hi\n", capture_output=True, text=True)
        self.assertEqual(json.loads(piped.stdout)["logits_hash"], wanted)
        self.fails(2, "run", self.chat, "hi", "-f", path, says="not both")
        self.fails(3, "run", self.folder / "nothing", says="nothing: no such file")
        self.fails(2, "run", self.chat, says="empty")

    def test_a_prompt_may_come_through_a_named_pipe(self):
        pipe = self.folder / "prompt.pipe"
        os.mkfifo(pipe)
        with subprocess.Popen(["sh", "-c", f"printf hello > {pipe}"]):
            facts = self.facts(self.chat, "-f", pipe, "-n", "3", *GREEDY)
        self.assertEqual(facts, facts | {key: self.facts(self.chat, "hello", "-n", "3", *GREEDY)[key] for key in ("text", "prompt_tokens")})
        self.fails(3, "run", pipe, "hello", says="prompt.pipe")

    def test_a_file_that_is_cut_short_while_it_is_in_use_is_status_3(self):
        folder = write_model(self.folder / "cut", self.layers)
        terminal = Terminal("run", folder, "--raw", "-n", "3")
        terminal.wait_for("> ")
        os.truncate(folder / "model.safetensors", 0)
        terminal.say("hello\n")
        terminal.wait_for("cut short")
        self.assertEqual(terminal.end(), 3)

    def test_a_model_without_a_template_says_that_it_continues_the_text(self):
        result = self.succeeds("run", self.model, "hi", "-n", "2", *GREEDY)
        self.assertIn("no chat template", result.stderr)
        self.assertNotIn("no chat template", self.succeeds("run", self.model, "hi", "--raw", "-n", "2", *GREEDY).stderr)
        self.assertEqual(self.facts(self.model, "hi", "-n", "2", *GREEDY)["prompt_tokens"], 2)
        self.fails(2, "run", self.model, "hi", "--system", "x", says="--chat-template")
        self.fails(2, "run", self.chat, "hi", "--system", "x", "--raw", says="--raw")
        for flags in (["--chat-template", self.folder / "none.jinja"], ["--chat-template-kwargs", "{}"]):
            self.fails(2, "run", self.chat, "hi", *flags, "--raw", says=f"--raw excludes {flags[0]}")

    def test_a_template_that_fails_is_one_line_with_advice(self):
        self.fails(3, "run", self.chat, "fail", says="not today; --raw")
        path = self.folder / "broken.jinja"
        path.write_text("{% for %}")
        self.fails(3, "run", self.chat, "hi", "--chat-template", path, says="--raw")

    def test_lengths(self):
        none = self.facts(self.chat, "hi", "-n", "0", *GREEDY)
        self.assertEqual(none["answer_tokens"], 0)
        self.assertGreater(none["prompt_tokens_per_second"], 0)
        full = self.facts(self.chat, "hi", "--ctx", "40", *GREEDY)
        self.assertEqual((full["finish"], full["context"]), ("context full", 40))
        self.assertEqual(full["answer_tokens"] + full["prompt_tokens"], 40)
        self.assertIn("context of 40 tokens is full", self.succeeds("run", self.chat, "hi", "--ctx", "40", *GREEDY).stderr)
        self.fails(2, "run", self.chat, "hi" * 30, "--ctx", "40", says="--ctx")
        self.fails(2, "run", self.model, "hi", "--ctx", "129", says="128")
        piped = subprocess.run([TQ, "run", self.model, "--raw"], input="long " * 50, capture_output=True, text=True)
        self.assertEqual((piped.returncode, piped.stderr.count("\n")), (2, 1))

    def test_numbers_that_make_no_sense_are_refused(self):
        for flags in (["--temperature", "nan"], ["--temperature", "-1"], ["--repetition-penalty", "nan"], ["--top-p", "2"], ["--ctx", "-5"]):
            self.fails(2, "run", self.chat, "hi", *flags, says=flags[0])

    def test_a_seed_repeats_the_choice(self):
        choice = ["-n", "12", "--ignore-end", "--temperature", "2", "--top-k", "0", "--top-p", "1", "--min-p", "0"]
        first = self.facts(self.chat, "hi", *choice, "--seed", "5")
        self.assertEqual(self.facts(self.chat, "hi", *choice, "--seed", "5")["text"], first["text"])
        other = self.facts(self.chat, "hi", *choice)
        self.assertNotEqual(other["text"], first["text"])
        self.assertEqual(self.facts(self.chat, "hi", *choice, "--seed", other["seed"])["text"], other["text"])

    def test_a_stop_text_ends_the_answer(self):
        text = self.facts(self.chat, "hi", "-n", "12", *GREEDY)["text"]
        stop = next(text[i : i + 2] for i in range(4, len(text) - 1) if "\0" not in text[i : i + 2])
        stopped = self.facts(self.chat, "hi", "-n", "12", "--stop", "never", "--stop", stop, *GREEDY)
        self.assertEqual((stopped["text"], stopped["finish"]), (text[: text.index(stop)], "stop text"))

    def test_a_conversation_keeps_its_history_and_its_cache(self):
        terminal = Terminal("run", self.chat, "-n", "4", "--temperature", "0")
        terminal.wait_for("> ")
        terminal.say("one\n")
        terminal.wait_for("prompt 21 tokens,")
        terminal.wait_for("> ")
        terminal.say("two \\\nlines\n")
        self.assertIn("reused", terminal.wait_for("; answer"))
        terminal.wait_for("> ")
        terminal.say('"""three\nfour"""\n')
        terminal.wait_for("reused")
        terminal.wait_for("> ")
        terminal.say("/regen\n")
        terminal.wait_for("reused")
        terminal.wait_for("> ")
        terminal.say("fail\n")
        terminal.wait_for("not today")
        terminal.wait_for("> ")
        terminal.say("/nonsense\n")
        terminal.wait_for("/help")
        terminal.wait_for("> ")
        terminal.say("/clear\n")
        terminal.wait_for("> ")
        terminal.say("one\n")
        terminal.wait_for("prompt 21 tokens")
        terminal.wait_for("> ")
        terminal.say("/exit\n")
        self.assertEqual(terminal.end(), 0)

    def test_has_the_threads_that_it_was_told_to_have(self):
        for threads in (1, 3):
            terminal = Terminal("run", self.chat, "-t", threads)
            terminal.wait_for("> ")
            with open(f"/proc/{terminal.process.pid}/status", encoding="ascii") as status:
                self.assertIn(f"Threads:\t{threads}\n", status.read())
            terminal.say("/exit\n")
            self.assertEqual(terminal.end(), 0)

    def test_an_interrupt_stops_the_answer_and_at_the_prompt_the_program(self):
        terminal = Terminal("run", self.chat, *GREEDY)
        terminal.wait_for("> ")
        terminal.say("talk for ever\n")
        terminal.wait_for("talk for ever\n")
        time.sleep(0.3)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("prompt ")
        terminal.wait_for("> ")
        terminal.process.send_signal(signal.SIGINT)
        self.assertEqual(terminal.end(), 0)

    def test_a_request_to_terminate_is_status_5_at_the_prompt_and_in_an_answer(self):
        for question in ("", "talk for ever\n"):
            terminal = Terminal("run", self.chat, *GREEDY)
            terminal.wait_for("> ")
            if question:
                terminal.say(question)
                terminal.wait_for("talk for ever\n")
                time.sleep(0.3)
            terminal.process.send_signal(signal.SIGTERM)
            self.assertEqual(terminal.end(), 5)

    def test_an_interrupt_while_standard_input_is_waited_for_is_status_5(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            command = [TQ, "run", self.chat, "-n", "2", *GREEDY]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                process.stdin.write("the beginning of a prompt")
                process.stdin.flush()
                time.sleep(0.5)
                process.send_signal(number)
                self.assertEqual(process.wait(60), 5)
                self.assertEqual((process.stdout.read(), process.stderr.read()), ("", "tq: stopped\n"))

    def test_an_interrupt_of_the_prompt_claims_no_speed(self):
        path = self.folder / "long.txt"
        path.write_text("a long prompt " * 30000)
        for flags in (["--json"], []):
            command = [TQ, "run", self.chat, "-f", path, *GREEDY, *flags]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 5, errors)
            if flags:
                facts = json.loads(output)
                self.assertEqual((facts["finish"], facts["answer_tokens"], facts["prompt_tokens_per_second"]), ("interrupted", 0, None))
            else:
                self.assertIn("tokens, interrupted after ", errors)
                self.assertNotIn("tok/s", errors)

    def test_an_interrupt_of_a_single_answer_is_status_5(self):
        process = subprocess.Popen([TQ, "run", self.chat, "hi", *GREEDY], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 5, errors)


if __name__ == "__main__":
    unittest.main()
