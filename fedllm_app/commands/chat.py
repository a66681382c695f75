"""`fedllm chat`: talk to the model that a run has trained, in a terminal."""

import argparse
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.options import not_negative, positive_integer
from fedllm_app.data.templates import TemplateError, Turn
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.evaluation.generation import ContextTooLong

_RESET = "/reset"


def add_parser(subparsers) -> None:
    """Add `fedllm chat`."""
    parser = subparsers.add_parser("chat", help="talk to the model that a run has trained")
    parser.add_argument("directory", help="a run directory, a checkpoint of one, or any PEFT directory")
    parser.add_argument("--client", type=int, metavar="K", help="with strategy.name='local': whose model")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this, and print nothing else")
    parser.add_argument("--base", action="store_true", help="the base model alone, without the adapter")
    parser.add_argument("--template", help="instead of the recorded one: a name or a .jinja file")
    parser.add_argument("--system-prompt", metavar="TEXT", help="instead of the recorded one; '' = the template's own")
    parser.add_argument("--model", help="instead of the recorded base: a built-in name, a directory or a Hub id")
    parser.add_argument(
        "--quantization", choices=("none", "int8", "nf4"), help="of the base, instead of the recorded one"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive_integer, default=256, metavar="N", help="of an answer (default: 256)"
    )
    parser.add_argument("--temperature", type=not_negative, default=0.0, help="0 = greedy (default)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")
    parser.set_defaults(command=_chat)


def _chat(parsed: argparse.Namespace, console: Console) -> int:
    source = find_source(
        Path(parsed.directory),
        parsed.client,
        parsed.model,
        parsed.template,
        parsed.system_prompt,
        parsed.trust_remote_code,
        parsed.quantization,
    )
    opened = Chat(source, parsed.base, parsed.max_new_tokens, parsed.temperature)
    if parsed.prompt is None:
        converse(opened, console)
    else:
        print(opened.answer([("user", parsed.prompt)]))
    return 0


def converse(chat: Chat, console: Console) -> None:
    """Answer what is typed, turn by turn, until an empty line or the end of the input."""
    with console.status("loading the model"):
        name, _, _ = chat.template.name, chat.context, chat.model
    model = "the base model" if chat.base else str(chat.source.adapter)
    greeting = f"{model}, template {name}. An empty line ends, {_RESET} begins anew."
    console.print(greeting, markup=False, highlight=False, soft_wrap=True)

    def show(piece: str) -> None:
        console.file.write(piece)  # as it is: rich would change tabs and :names:
        console.file.flush()

    turns: list[Turn] = []
    while text := _typed(console):
        if text == _RESET:
            turns = []
            continue
        conversation = [*turns, ("user", text)]
        try:
            answer = chat.answer(conversation, show)
        except (ContextTooLong, TemplateError) as error:
            console.print(str(error), style="red", markup=False, highlight=False, emoji=False)
            continue
        console.print()
        turns = [*conversation, ("assistant", answer)]


def _typed(console: Console) -> str:
    try:
        return console.input("[bold]> [/]").strip()
    except EOFError:
        return ""
