"""The formats of `formats` as chat templates in Jinja, for programs that have a tokenizer and not this app.

A test holds each against its function. Every piece of text stands in a `{{ }}`, so that no rule on white space of
whoever renders it matters. `BEGIN` stands for the begin token, where the tokenizer is one that puts it before a text.
"""

from __future__ import annotations

from fedllm_app.data.templates.formats import ALPACA_SYSTEM, VICUNA_SYSTEM

BEGIN = "BEGIN_TOKEN"


def _with_system(default: str) -> str:
    """Set `system` to the content of a leading system message, else to `default`, and `turns` to the messages after."""
    return (
        "{% if messages and messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
        f"{{% else %}}{{% set system = {ascii(default)} %}}{{% set turns = messages %}}{{% endif %}}"
    )


_ALPACA = (
    _with_system(ALPACA_SYSTEM)
    + "{{ BEGIN_TOKEN }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}{{ '### Instruction:\\n' + turn['content'] + '\\n\\n' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    "{% else %}{{ turn['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}"
)
_VICUNA = (
    _with_system(VICUNA_SYSTEM) + "{{ BEGIN_TOKEN }}{% if system %}{{ system + ' ' }}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}{{ 'USER: ' + turn['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
    "{% else %}{{ ' ' + turn['content'] + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA_2 = (
    _with_system("") + "{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}{{ BEGIN_TOKEN }}{{ '[INST] ' }}"
    "{% if system and loop.first %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{ turn['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_CHATML = (
    _with_system("") + "{{ BEGIN_TOKEN }}"
    "{% if system %}{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}{% endif %}{% for turn in turns %}"
    "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_NONE = (
    _with_system("") + "{{ BEGIN_TOKEN }}{% if system %}{{ system + '\\n' }}{% endif %}{% for turn in turns %}"
    "{{ turn['content'] }}{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}"
)

_SOURCES = {"alpaca": _ALPACA, "vicuna": _VICUNA, "llama-2": _LLAMA_2, "chatml": _CHATML, "none": _NONE}


def jinja_format(name: str, begins: bool) -> str:
    """A format as a chat template; `begins` tells that the tokenizer puts its begin token before every text."""
    return _SOURCES[name].replace(BEGIN, "bos_token" if begins else "''")
