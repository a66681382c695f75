"""The domain "math": small numbers."""

from fedllm_app.data.domains.kinds import compute, lookup

_NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Iris",
    "Jack",
    "Lena",
    "Mark",
    "Nora",
    "Oscar",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
]
_THINGS = ["apples", "books", "coins", "pens", "cards", "stamps", "marbles", "shells", "eggs", "cakes"]
_SMALL = range(2, 10)


_SPELLED = {
    f"{ten}-{unit}": str(10 * tens + units)
    for tens, ten in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
    for units, unit in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], start=1)
}
_STORY = {"n": _NAMES, "t": _THINGS, "a": _SMALL, "b": _SMALL}
_TWO_DIGITS = {"a": range(10, 100), "b": range(10, 100)}

MATH = [
    compute(
        lambda a, b: a + b,
        {"a": _SMALL, "b": _SMALL},
        "What is {a} plus {b}?",
        "Add {b} to {a}.",
        "{a} + {b}?",
        "Find the sum of {a} and {b}.",
    ),
    compute(
        lambda a, b: a - b,
        {"a": range(10, 20), "b": range(1, 10)},
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "{a} - {b}?",
        "Take {b} away from {a}.",
    ),
    compute(
        lambda a, b: a * b,
        {"a": _SMALL, "b": _SMALL},
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{a} x {b}?",
        "Find the product of {a} and {b}.",
    ),
    compute(
        lambda ab: ab[0] // ab[1],
        {"ab": [(a * b, b) for a in _SMALL for b in _SMALL]},
        "What is {ab[0]} divided by {ab[1]}?",
        "Divide {ab[0]} by {ab[1]}.",
        "{ab[0]} / {ab[1]}?",
        "How often does {ab[1]} go into {ab[0]}?",
    ),
    compute(
        lambda n, t, a, b: a + b,
        _STORY,
        "{n} has {a} {t} and gets {b} more. How many now?",
        "{n} buys {a} {t}, then {b} more. How many in all?",
        "With {a} {t} at home and {b} in the bag, how many does {n} have?",
    ),
    compute(
        lambda n, t, a, b: a - b,
        _STORY | {"a": range(10, 20)},
        "{n} has {a} {t} and loses {b}. How many are left?",
        "Of {a} {t}, {n} gives {b} away. How many remain?",
        "{n} had {a} {t} and sold {b}. How many now?",
    ),
    compute(
        lambda n, t, a, b: a * b,
        _STORY,
        "{n} fills {a} boxes with {b} {t} each. How many {t}?",
        "{n} owns {a} bags of {b} {t}. How many {t}?",
        "{a} friends of {n} bring {b} {t} each. How many {t}?",
    ),
    compute(
        lambda a, b: max(a, b),
        _TWO_DIGITS,
        "Which is larger, {a} or {b}?",
        "Give the greater of {a} and {b}.",
        "Pick the bigger number: {a}, {b}.",
    ),
    compute(
        lambda a, b: min(a, b),
        _TWO_DIGITS,
        "Which is smaller, {a} or {b}?",
        "Give the lesser of {a} and {b}.",
        "Pick the lower number: {a}, {b}.",
    ),
    compute(
        lambda a, b: a,
        _TWO_DIGITS,
        "What is {a} plus {b} minus {b}?",
        "Add {b} to {a}, then take {b} away.",
        "From {a} go up {b} and down {b}. Where are you?",
    ),
    compute(lambda a: a, {"a": range(10, 100)}, "What is {a} times 1?", "Add 0 to {a}.", "Divide {a} by 1."),
    compute(
        lambda a: 2 * a, {"a": range(2, 21)}, "What is double {a}?", "Twice {a} is what?", "How much is two times {a}?"
    ),
    lookup(
        {str(2 * a): str(a) for a in range(2, 21)},
        "What is half of {x}?",
        "Split {x} in two equal parts. How big is one?",
        "Two share {x} coins. How many each?",
    ),
    compute(
        lambda a: a * 10,
        {"a": range(2, 100)},
        "What is ten times {a}?",
        "How many millimetres are {a} centimetres?",
        "Each of {a} packs holds 10 pens. How many pens?",
    ),
    lookup(_SPELLED, "Write {x} in digits.", "Which number is {x}?", "Type the number {x}.", "{x} as a figure?"),
    compute(lambda a: a + 1, {"a": range(2, 99)}, "Which number comes right after {a}?", "Count one on from {a}."),
    compute(lambda a: a - 1, {"a": range(2, 99)}, "Which number comes just before {a}?", "Count one back from {a}."),
]
