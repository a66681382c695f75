"""`fedllm chat`: talk to the model that a run has trained, in a terminal."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.options import not_negative, positive_integer
from fedllm_app.commands.side_by_side import show_side_by_side
from fedllm_app.data.templates import TemplateError, Turn
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.evaluation.generation import ContextTooLong

_RESET = "/reset"
_NAMES = ("base model", "with the adapter")


def add_parser(subparsers) -> None:
    """Add `fedllm chat`."""
    parser = subparsers.add_parser("chat", help="talk to the model that a run has trained")
    parser.add_argument("directory", help="a run directory, a checkpoint of one, or any PEFT directory")
    parser.add_argument("--client", type=int, metavar="K", help="with strategy.name='local': whose model")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this, and print nothing else")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="the base model alone, without the adapter")
    which.add_argument("--compare", action="store_true", help="base model and adapter side by side")
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
        converse(opened, console, parsed.compare)
    elif parsed.compare:
        _compared(opened, [[("user", parsed.prompt)]] * 2, console)
    else:
        _streamed(opened, [[("user", parsed.prompt)]], console)
    return 0


def converse(chat: Chat, console: Console, compare: bool = False) -> None:
    """Answer what is typed, turn by turn, until an empty line or the end of the input.

    With `compare` the base answers, too; each of both sees its own earlier answers.
    """
    with console.status("loading the model"):
        name, _, _ = chat.template.name, chat.context, chat.model
    model = "the base model" if chat.base else str(chat.source.adapter)
    model = f"the base model and {model}" if compare else model
    greeting = f"{model}, template {name}. An empty line ends, {_RESET} begins anew."
    console.print(greeting, markup=False, highlight=False, soft_wrap=True)
    answer, histories = (_compared, [[], []]) if compare else (_streamed, [[]])
    while text := _typed(console):
        if text == _RESET:
            histories = [[] for _ in histories]
            continue
        conversations = [[*turns, ("user", text)] for turns in histories]
        try:
            answers = answer(chat, conversations, console)
        except (ContextTooLong, TemplateError) as error:
            console.print(str(error), style="red", markup=False, highlight=False, emoji=False)
            continue
        histories = [[*turns, ("assistant", said)] for turns, said in zip(conversations, answers, strict=True)]


def _streamed(chat: Chat, conversations: Sequence[Sequence[Turn]], console: Console) -> list[str]:
    """Show the answer as it is generated, and nothing else."""

    def show(piece: str) -> None:
        console.file.write(piece)  # as it is: rich would change tabs and :names:
        console.file.flush()

    answer = chat.answer(conversations[0], show)
    show("\n")
    return [answer]


def _compared(chat: Chat, conversations: Sequence[Sequence[Turn]], console: Console) -> list[str]:
    answers = (partial(chat.answer, without_adapter=True), chat.answer)
    return show_side_by_side(console, _NAMES, answers, conversations)


def _typed(console: Console) -> str:
    try:
        return console.input("[bold]> [/]").strip()
    except EOFError:
        console.print()  # the prompt ends its line
        return ""
