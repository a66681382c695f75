"""The domain "code": short Python expressions and the names of Python's own tools."""

import random
from collections.abc import Sequence

from fedllm_app.data.domains.general import WORDS
from fedllm_app.data.domains.kinds import Kind, lookup, matches, pairs


def _evaluate(expression: str, **slots: Sequence) -> Kind:
    """A kind that asks for what an expression prints."""

    def draw(rng: random.Random):
        asked, other = (expression.format(**{k: rng.choice(v) for k, v in slots.items()}) for _ in range(2))
        # eval sees nothing but the expressions written below; Python itself is the source of the answers.
        answer, wrong = str(eval(asked)), str(eval(other))
        return {"x": asked}, answer, "None" if matches(wrong, answer) else wrong

    return Kind(
        (
            "What does `print({x})` show?",
            "Evaluate `{x}` in Python.",
            "Python: `{x}` gives what?",
            "What is the result of `{x}`?",
        ),
        draw,
    )


_TOOLS = pairs(
    "the_length_of_a_list=len the_largest_item=max the_smallest_item=min the_total_of_a_list=sum a_sorted_copy=sorted "
    "the_type_of_an_object=type the_absolute_value=abs a_rounded_number=round a_line_typed_by_the_user=input "
    "an_open_file=open pairs_from_two_lists=zip a_series_of_integers=range a_text_made_from_a_number=str"
)
_KEYWORDS = pairs(
    "starts_a_function=def starts_a_class=class leaves_a_loop=break skips_to_the_next_turn_of_a_loop=continue "
    "hands_a_result_back=return loads_a_module=import handles_an_error=except throws_an_error=raise does_nothing=pass "
    "repeats_while_a_test_holds=while walks_over_a_list=for tests_a_condition=if makes_a_nameless_function=lambda"
)
_TYPES = {
    repr(value): type(value).__name__
    for n in range(1, 25)
    for value in (n, n / 2, WORDS[n], n < 9, [n, n + 1], (n, n + 1), {WORDS[n]: n})
}
_DIGITS, _LETTERS = range(1, 10), "abcdefgh"
_THREE = {"a": _DIGITS, "b": _DIGITS, "c": _DIGITS}

CODE = [
    lookup(
        _TOOLS,
        "Which Python built-in function gives {x}?",
        "Name the built-in for {x}.",
        "I want {x}. Which function do I call?",
    ),
    lookup(_KEYWORDS, "Which Python keyword {x}?", "Name the keyword that {x}.", "In Python code, what {x}?"),
    lookup(_TYPES, "What is the type of `{x}`?", "Name the Python class of `{x}`.", "`{x}` has which type?"),
    _evaluate("len([{a}])", a=["1", "7, 8", "2, 5, 9", "3, 6, 1, 8", "4, 1, 5, 5, 2", "0, 9", "6, 6, 6", "1, 2, 3, 4"]),
    _evaluate("max([{a}, {b}, {c}])", **_THREE),
    _evaluate("min({a}, {b}, {c})", **_THREE),
    _evaluate("[{a}, {b}, {c}][{i}]", i=(0, -1), **_THREE),
    _evaluate("'{v} {w}'.split()[{i}]", v=WORDS, w=WORDS, i=(0, 1)),
    _evaluate("['{v}', '{w}'][{i}]", v=WORDS, w=WORDS, i=(0, 1)),
    _evaluate("'{v}' + '{w}'", v=_LETTERS, w=_LETTERS),
    _evaluate("{a} > {b}", a=range(20), b=range(20)),
    _evaluate("{a} in [{b}, {c}]", a=(1, 2, 3), b=(1, 2, 3), c=(1, 2, 3)),
    _evaluate("{a} + {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("{a} * {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("sorted([{a}, {b}])", a=_DIGITS, b=_DIGITS),
    _evaluate("dict({k}={a}, {l}={b})['{k}']", k="abc", l="xyz", a=_DIGITS, b=_DIGITS),
]
