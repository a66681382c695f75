"""The formats that are known by name. To add one, write a function and add one line to `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Turn = tuple[str, str]

Format = Callable[[str | None, Sequence[Turn], str, str], str]
"""Text of (system prompt or None for the default, turns without system, begin token, end token)."""

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _alpaca(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Stanford Alpaca without an input; a line break follows `### Response:`. A system prompt replaces the preamble."""
    system = ALPACA_SYSTEM if system is None else system
    text = bos + (f"{system}\n\n" if system else "")
    for role, content in turns:
        text += f"### Instruction:\n{content}\n\n### Response:\n" if role == "user" else f"{content}{eos}\n\n"
    return text


def _vicuna(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Vicuna v1.1."""
    system = VICUNA_SYSTEM if system is None else system
    text = bos + (f"{system} " if system else "")
    for role, content in turns:
        text += f"USER: {content} ASSISTANT:" if role == "user" else f" {content}{eos}"
    return text


def _llama_2(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Llama 2 chat: the system prompt stands in the first user turn; every pair begins anew."""
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    text = ""
    for role, content in turns:
        if role == "user":
            text += f"{bos}[INST] {block}{content} [/INST]"
            block = ""
        else:
            text += f" {content} {eos}"
    return text


def _chatml(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """ChatML, without a default system prompt."""
    spoken = [("system", system), *turns] if system else turns
    text = bos + "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in spoken)
    return text + ("<|im_start|>assistant\n" if turns[-1][0] == "user" else "")


def _none(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """The contents alone, one below the other."""
    contents = [system, *(content for _, content in turns)] if system else [content for _, content in turns]
    return bos + "\n".join(contents) + ("\n" if turns[-1][0] == "user" else "")


FORMATS: dict[str, Format] = {
    "alpaca": _alpaca,
    "vicuna": _vicuna,
    "llama-2": _llama_2,
    "chatml": _chatml,
    "none": _none,
}
"""Formats by name."""
