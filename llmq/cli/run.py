"""Continue a prompt and stream the text to the terminal.

  llmq run model.gguf "Once upon a time"
  llmq run "Once upon a time"              the model that comes with llmq
  echo "Once upon a time" | llmq run model.gguf -

The text goes to standard output, a line with the speed to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llmq.cli import _common
from llmq.results import Chunk, Completion

_PROMPT = "It was a dark and stormy night"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a GGUF file or a Hugging Face folder (default: the model of llmq)")
    parser.add_argument("prompt", nargs="?", help='the text to continue; "-" reads it from standard input')
    parser.add_argument("--chat", action="store_true", help="send the prompt as a user's message through the chat template")
    parser.add_argument("--no-echo", action="store_true", help="do not print the prompt before its continuation")
    _common.add_sampling_arguments(parser)
    _common.add_load_arguments(parser)


def _model_and_prompt(args: argparse.Namespace) -> tuple[str | Path, str]:
    model, prompt = args.model, args.prompt
    if prompt is None and model is not None and not _is_model(model):
        model, prompt = None, model
    if prompt == "-" or (prompt is None and model is not None):
        if prompt is None and sys.stdin.isatty():
            raise ValueError(f'a prompt is missing: llmq run {model} "TEXT", or llmq chat {model}')
        prompt = _common.read_text("-").removesuffix("\n")
    return model or _common.embedded_model(), _PROMPT if prompt is None else _common.given_text(prompt)


def _is_model(name: str) -> bool:
    return name.endswith(".gguf") or ("\n" not in name and len(name) < 4096 and Path(name).exists())


def run(args: argparse.Namespace) -> int:
    path, prompt = _model_and_prompt(args)
    sampling = _common.sampling_of(args)
    with _common.open_model(args, path) as llm:
        messages = [{"role": "user", "content": prompt}]
        if args.json:
            done: Completion = llm.chat(messages, sampling) if args.chat else llm.generate(prompt, sampling)
            sys.stdout.write(json.dumps(_common.as_json(done, model=llm.name, prompt=prompt), ensure_ascii=False) + "\n")
            return 0
        stream = llm.chat_stream(messages, sampling) if args.chat else llm.stream(prompt, sampling)
        if not args.chat and not args.no_echo:
            sys.stdout.write(prompt)
        last: Chunk | None = None
        with stream:
            try:
                for last in stream:
                    sys.stdout.write(last.text)
                    sys.stdout.flush()
            finally:
                sys.stdout.write("\n")
                sys.stdout.flush()
        if last is not None:
            sys.stderr.write(f"[{_common.speed_line(last.usage, last.timings)}, seed {last.seed}]\n")
    return 0
