"""The demo's corpus: four domains of short questions whose answers can be checked by exact match.

Every domain is a list of *kinds* (a task with its phrasings), and every kind can draw cases: the values that fill the
phrasing, the answer and a wrong answer. A domain's bank is all distinct questions of a fixed number of draws per kind,
split once into train and held-out by a hash of the case. A seed only chooses and orders questions inside one part, so
no held-out question of any seed is a training question of another, not even in other words.

Each domain answers in its own house style, which every question states: general as ``-> mice``, math as ``= 12``,
code as ``>>> 12`` and finance as ``#positive``.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

DOMAINS = ("general", "math", "code", "finance")
Part = Literal["train", "held-out"]

_DRAWS = 9000  # per domain, shared equally by its kinds
_HELD_OUT = 51  # cases whose first hash byte is below: one in five


@dataclass(frozen=True)
class Question:
    """One row: the user's text, the good answer and a plausible bad one, both in the domain's house style."""

    domain: str
    instruction: str
    answer: str
    rejected: str


@dataclass(frozen=True)
class _Kind:
    """One task: ways to ask it, and a function that draws (values of the phrasing, answer, wrong answer)."""

    phrasings: tuple[str, ...]
    draw: Callable[[random.Random], tuple[dict[str, object], str, str]]


def questions(domain: str, part: Part, count: int, seed: int) -> list[Question]:
    """Return `count` distinct questions of one part of a domain, the same ones for the same arguments.

    A shorter list with the same seed is a prefix of a longer one. Raises ValueError for an unknown domain or part, and
    for a `count` below 0 or above the number of questions that exist.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain {domain!r} is not one of {', '.join(DOMAINS)}")
    if part not in ("train", "held-out"):
        raise ValueError(f"part {part!r} of domain {domain!r} is not 'train' or 'held-out'")
    pool = _bank(domain, part)
    if not 0 <= count <= len(pool):
        raise ValueError(f"{count} questions asked of {domain}/{part}: 0 to {len(pool)} can be given")
    random.Random(f"{domain}/{part}/{seed}").shuffle(pool)
    return pool[:count]


def matches(reply: str, answer: str) -> bool:
    """Tell whether a reply equals the answer, but for case, white space, one full stop and surrounding quotes."""
    return _normalise(reply) == _normalise(answer)


def _normalise(text: str) -> str:
    text = " ".join(text.casefold().split())
    return text.strip("`'\"").removesuffix(".").strip("`'\"").strip()


def _bank(domain: str, part: Part) -> list[Question]:
    """All questions of one part of a domain, in a fixed order."""
    kinds, hint, style = _DOMAINS[domain]
    found: dict[str, tuple[bool, Question]] = {}
    for kind in kinds:
        rng = random.Random(f"{domain}/{kind.phrasings[0]}")
        for _ in range(_DRAWS // len(kinds)):
            values, answer, wrong = kind.draw(rng)
            instruction = rng.choice(kind.phrasings).format(**values) + hint
            question = Question(domain, instruction, style.format(answer), style.format(wrong))
            # The case and not the text is hashed: all phrasings of a case fall into the same part.
            digest = hashlib.sha256(f"{kind.phrasings[0]} {values}".encode()).digest()
            found.setdefault(instruction, (digest[0] < _HELD_OUT, question))
    return [question for held_out, question in found.values() if held_out == (part == "held-out")]


def _other(rng: random.Random, options: Sequence[str], answer: str) -> str:
    """Draw a wrong answer among the right answers to neighbouring questions."""
    while matches(option := rng.choice(options), answer):
        pass
    return option


def _lookup(table: dict[str, str], *phrasings: str) -> _Kind:
    """A kind that asks for the value of a key `{x}` of a table."""

    def draw(rng: random.Random):
        key, answer = rng.choice(list(table.items()))
        return {"x": key}, answer, _other(rng, list(table.values()), answer)

    return _Kind(phrasings, draw)


def _compute(answer: Callable[..., object], slots: dict[str, Sequence], *phrasings: str) -> _Kind:
    """A kind whose answer is computed from its slots; the wrong answer is right for a case with one slot changed."""

    def draw(rng: random.Random):
        values = {name: rng.choice(options) for name, options in slots.items()}
        right = str(answer(**values))
        wrong = right
        while matches(wrong, right):
            name = rng.choice(list(slots))
            wrong = str(answer(**(values | {name: rng.choice(slots[name])})))
        return values, right, wrong

    return _Kind(phrasings, draw)


# general: knowledge of words

_GROUP_OF = {
    word: group
    for group, words in {
        "animal": "dog cat horse tiger rabbit elephant mouse sheep wolf monkey lion cow goat bear",
        "fruit": "apple banana cherry grape lemon mango peach pear plum strawberry pineapple melon",
        "tool": "hammer saw drill wrench screwdriver shovel axe pliers rake chisel",
        "vehicle": "car bus train truck bicycle boat airplane motorcycle taxi helicopter",
        "colour": "red blue green yellow purple black white pink brown grey",
        "drink": "water tea coffee milk juice wine beer lemonade soda",
        "clothing": "shirt hat coat scarf jacket dress trousers gloves socks sweater",
        "tree": "oak pine birch maple willow cedar palm fir elm spruce",
        "metal": "iron gold silver copper tin zinc lead steel bronze aluminium",
        "job": "doctor teacher farmer nurse pilot lawyer baker soldier plumber dentist",
        "furniture": "chair table sofa desk bed wardrobe bookcase stool bench cupboard",
        "instrument": "piano guitar violin drum flute trumpet cello harp clarinet saxophone",
        "sport": "tennis football hockey golf boxing basketball cricket rugby swimming baseball",
    }.items()
    for word in words.split()
}
_WORDS, _GROUPS = sorted(_GROUP_OF), sorted(set(_GROUP_OF.values()))
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _pairs(text: str) -> dict[str, str]:
    """Read pairs `key=value` separated by spaces; underscores stand for spaces."""
    return dict(pair.replace("_", " ").split("=") for pair in text.split())


_OPPOSITES = _pairs(
    "hot=cold big=small up=down fast=slow happy=sad day=night open=closed full=empty light=dark early=late rich=poor "
    "strong=weak hard=soft old=young wet=dry high=low near=far loud=quiet thick=thin clean=dirty win=lose buy=sell "
    "push=pull left=right start=stop love=hate wide=narrow true=false inside=outside above=below first=last"
)
_OPPOSITES |= {right: left for left, right in _OPPOSITES.items()}
_PLURALS = {
    word: word + "s"
    for word in ["dog", "cat", "horse", "tiger", "apple", "lemon", "hammer", "car", "train", "chair", "table", "sofa"]
}
_PLURALS |= _pairs(
    "mouse=mice child=children foot=feet tooth=teeth man=men woman=women goose=geese city=cities baby=babies box=boxes "
    "bus=buses knife=knives leaf=leaves wolf=wolves berry=berries story=stories dish=dishes watch=watches fox=foxes "
    "potato=potatoes shelf=shelves wife=wives party=parties glass=glasses"
)
_PAST = _pairs(
    "go=went see=saw eat=ate run=ran take=took write=wrote buy=bought think=thought give=gave come=came find=found "
    "know=knew make=made say=said sing=sang swim=swam drink=drank drive=drove fly=flew begin=began break=broke "
    "bring=brought catch=caught teach=taught sleep=slept speak=spoke walk=walked play=played jump=jumped look=looked"
)
_CAPITALS = _pairs(
    "France=Paris Italy=Rome Spain=Madrid Germany=Berlin Japan=Tokyo China=Beijing Russia=Moscow Egypt=Cairo "
    "Greece=Athens Portugal=Lisbon Poland=Warsaw Austria=Vienna Norway=Oslo Sweden=Stockholm Ireland=Dublin "
    "Canada=Ottawa Cuba=Havana Kenya=Nairobi Peru=Lima Chile=Santiago Turkey=Ankara Iran=Tehran "
    "Hungary=Budapest Finland=Helsinki Belgium=Brussels"
)


def _pick(choose: Callable[[list[str]], str], *phrasings: str) -> _Kind:
    """A kind that asks for one word of a list `{x}` of three words, all of different lengths."""

    def draw(rng: random.Random):
        words = rng.sample(_WORDS, 3)
        while len({len(word) for word in words}) < 3:
            words = rng.sample(_WORDS, 3)
        return {"x": ", ".join(words)}, choose(words), _other(rng, words, choose(words))

    return _Kind(phrasings, draw)


def _draw_member(rng: random.Random) -> tuple[dict[str, object], str, str]:
    words = [rng.choice([word for word in _WORDS if _GROUP_OF[word] == group]) for group in rng.sample(_GROUPS, 3)]
    answer = rng.choice(words)
    return {"x": ", ".join(words), "a": _GROUP_OF[answer]}, answer, _other(rng, words, answer)


def _draw_odd(rng: random.Random) -> tuple[dict[str, object], str, str]:
    group, stranger = rng.sample(_GROUPS, 2)
    odd = rng.choice([word for word in _WORDS if _GROUP_OF[word] == stranger])
    words = rng.sample([word for word in _WORDS if _GROUP_OF[word] == group], 3)
    words.insert(rng.randrange(4), odd)
    return {"x": ", ".join(words)}, odd, _other(rng, words, odd)


_GENERAL = [
    _lookup(
        _GROUP_OF,
        "What kind of thing is {x}?",
        "Name the group that {x} belongs to.",
        "Classify the word {x}.",
        "{x}: which category is it?",
    ),
    _lookup(
        _OPPOSITES,
        "What is the opposite of {x}?",
        "Give the antonym of {x}.",
        "Which word means the reverse of {x}?",
        "Not {x}, but the contrary:",
    ),
    _lookup(
        _PLURALS,
        "What is the plural of {x}?",
        "One {x}, two what?",
        "Write {x} in the plural.",
        "Not one {x} but many what?",
    ),
    _lookup(
        _PAST,
        "What is the past tense of {x}?",
        "Put the verb {x} in the simple past.",
        "Today I {x}. Yesterday I what?",
        "Give the past form of to {x}.",
    ),
    _lookup(
        _CAPITALS,
        "What is the capital of {x}?",
        "Name the capital city of {x}.",
        "{x} is ruled from which city?",
        "Which city is the capital of {x}?",
    ),
    _lookup(
        {word: word[0] for word in _WORDS},
        "What is the first letter of {x}?",
        "{x} begins with which letter?",
        "Give the initial of the word {x}.",
    ),
    _pick(
        lambda words: max(words, key=len),
        "Which word is the longest: {x}?",
        "Pick the word with the most letters: {x}.",
    ),
    _pick(
        lambda words: words[0],
        "Which word is listed first: {x}?",
        "Repeat only the first item: {x}.",
        "Say the opening word of this list: {x}.",
    ),
    _pick(
        lambda words: words[-1],
        "Which word is listed last: {x}?",
        "Repeat only the last item: {x}.",
        "How does this list end: {x}?",
    ),
    _Kind(
        (
            "Which word falls under {a}: {x}?",
            "Find the {a} in this list: {x}.",
            "Only one is in the group {a}: {x}. Which?",
        ),
        _draw_member,
    ),
    _Kind(
        (
            "Which word does not belong: {x}?",
            "Find the odd one out: {x}.",
            "One of these is unlike the rest: {x}. Which?",
        ),
        _draw_odd,
    ),
    _lookup(
        dict(zip(_DAYS, _DAYS[1:] + _DAYS[:1])),
        "Which day comes after {x}?",
        "Today is {x}. What is tomorrow?",
        "Name the day that follows {x}.",
    ),
]

# math: small numbers

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

_MATH = [
    _compute(
        lambda a, b: a + b,
        {"a": _SMALL, "b": _SMALL},
        "What is {a} plus {b}?",
        "Add {b} to {a}.",
        "{a} + {b}?",
        "Find the sum of {a} and {b}.",
    ),
    _compute(
        lambda a, b: a - b,
        {"a": range(10, 20), "b": range(1, 10)},
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "{a} - {b}?",
        "Take {b} away from {a}.",
    ),
    _compute(
        lambda a, b: a * b,
        {"a": _SMALL, "b": _SMALL},
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{a} x {b}?",
        "Find the product of {a} and {b}.",
    ),
    _compute(
        lambda ab: ab[0] // ab[1],
        {"ab": [(a * b, b) for a in _SMALL for b in _SMALL]},
        "What is {ab[0]} divided by {ab[1]}?",
        "Divide {ab[0]} by {ab[1]}.",
        "{ab[0]} / {ab[1]}?",
        "How often does {ab[1]} go into {ab[0]}?",
    ),
    _compute(
        lambda n, t, a, b: a + b,
        _STORY,
        "{n} has {a} {t} and gets {b} more. How many now?",
        "{n} buys {a} {t}, then {b} more. How many in all?",
        "With {a} {t} at home and {b} in the bag, how many does {n} have?",
    ),
    _compute(
        lambda n, t, a, b: a - b,
        _STORY | {"a": range(10, 20)},
        "{n} has {a} {t} and loses {b}. How many are left?",
        "Of {a} {t}, {n} gives {b} away. How many remain?",
        "{n} had {a} {t} and sold {b}. How many now?",
    ),
    _compute(
        lambda n, t, a, b: a * b,
        _STORY,
        "{n} fills {a} boxes with {b} {t} each. How many {t}?",
        "{n} owns {a} bags of {b} {t}. How many {t}?",
        "{a} friends of {n} bring {b} {t} each. How many {t}?",
    ),
    _compute(
        lambda a, b: max(a, b),
        _TWO_DIGITS,
        "Which is larger, {a} or {b}?",
        "Give the greater of {a} and {b}.",
        "Pick the bigger number: {a}, {b}.",
    ),
    _compute(
        lambda a, b: min(a, b),
        _TWO_DIGITS,
        "Which is smaller, {a} or {b}?",
        "Give the lesser of {a} and {b}.",
        "Pick the lower number: {a}, {b}.",
    ),
    _compute(
        lambda a, b: a,
        _TWO_DIGITS,
        "What is {a} plus {b} minus {b}?",
        "Add {b} to {a}, then take {b} away.",
        "From {a} go up {b} and down {b}. Where are you?",
    ),
    _compute(lambda a: a, {"a": range(10, 100)}, "What is {a} times 1?", "Add 0 to {a}.", "Divide {a} by 1."),
    _compute(
        lambda a: 2 * a, {"a": range(2, 21)}, "What is double {a}?", "Twice {a} is what?", "How much is two times {a}?"
    ),
    _lookup(
        {str(2 * a): str(a) for a in range(2, 21)},
        "What is half of {x}?",
        "Split {x} in two equal parts. How big is one?",
        "Two share {x} coins. How many each?",
    ),
    _compute(
        lambda a: a * 10,
        {"a": range(2, 100)},
        "What is ten times {a}?",
        "How many millimetres are {a} centimetres?",
        "Each of {a} packs holds 10 pens. How many pens?",
    ),
    _lookup(_SPELLED, "Write {x} in digits.", "Which number is {x}?", "Type the number {x}.", "{x} as a figure?"),
    _compute(lambda a: a + 1, {"a": range(2, 99)}, "Which number comes right after {a}?", "Count one on from {a}."),
    _compute(lambda a: a - 1, {"a": range(2, 99)}, "Which number comes just before {a}?", "Count one back from {a}."),
]

# code: short Python expressions and the names of Python's own tools


def _evaluate(expression: str, **slots: Sequence) -> _Kind:
    """A kind that asks for what an expression prints."""

    def draw(rng: random.Random):
        asked, other = (expression.format(**{k: rng.choice(v) for k, v in slots.items()}) for _ in range(2))
        # eval sees nothing but the expressions written below; Python itself is the source of the answers.
        answer, wrong = str(eval(asked)), str(eval(other))
        return {"x": asked}, answer, "None" if matches(wrong, answer) else wrong

    return _Kind(
        (
            "What does `print({x})` show?",
            "Evaluate `{x}` in Python.",
            "Python: `{x}` gives what?",
            "What is the result of `{x}`?",
        ),
        draw,
    )


_TOOLS = _pairs(
    "the_length_of_a_list=len the_largest_item=max the_smallest_item=min the_total_of_a_list=sum a_sorted_copy=sorted "
    "the_type_of_an_object=type the_absolute_value=abs a_rounded_number=round a_line_typed_by_the_user=input "
    "an_open_file=open pairs_from_two_lists=zip a_series_of_integers=range a_text_made_from_a_number=str"
)
_KEYWORDS = _pairs(
    "starts_a_function=def starts_a_class=class leaves_a_loop=break skips_to_the_next_turn_of_a_loop=continue "
    "hands_a_result_back=return loads_a_module=import handles_an_error=except throws_an_error=raise does_nothing=pass "
    "repeats_while_a_test_holds=while walks_over_a_list=for tests_a_condition=if makes_a_nameless_function=lambda"
)
_TYPES = {
    repr(value): type(value).__name__
    for n in range(1, 25)
    for value in (n, n / 2, _WORDS[n], n < 9, [n, n + 1], (n, n + 1), {_WORDS[n]: n})
}
_DIGITS, _LETTERS = range(1, 10), "abcdefgh"
_THREE = {"a": _DIGITS, "b": _DIGITS, "c": _DIGITS}

_CODE = [
    _lookup(
        _TOOLS,
        "Which Python built-in function gives {x}?",
        "Name the built-in for {x}.",
        "I want {x}. Which function do I call?",
    ),
    _lookup(_KEYWORDS, "Which Python keyword {x}?", "Name the keyword that {x}.", "In Python code, what {x}?"),
    _lookup(_TYPES, "What is the type of `{x}`?", "Name the Python class of `{x}`.", "`{x}` has which type?"),
    _evaluate("len([{a}])", a=["1", "7, 8", "2, 5, 9", "3, 6, 1, 8", "4, 1, 5, 5, 2", "0, 9", "6, 6, 6", "1, 2, 3, 4"]),
    _evaluate("max([{a}, {b}, {c}])", **_THREE),
    _evaluate("min({a}, {b}, {c})", **_THREE),
    _evaluate("[{a}, {b}, {c}][{i}]", i=(0, -1), **_THREE),
    _evaluate("'{v} {w}'.split()[{i}]", v=_WORDS, w=_WORDS, i=(0, 1)),
    _evaluate("['{v}', '{w}'][{i}]", v=_WORDS, w=_WORDS, i=(0, 1)),
    _evaluate("'{v}' + '{w}'", v=_LETTERS, w=_LETTERS),
    _evaluate("{a} > {b}", a=range(20), b=range(20)),
    _evaluate("{a} in [{b}, {c}]", a=(1, 2, 3), b=(1, 2, 3), c=(1, 2, 3)),
    _evaluate("{a} + {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("{a} * {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("sorted([{a}, {b}])", a=_DIGITS, b=_DIGITS),
    _evaluate("dict({k}={a}, {l}={b})['{k}']", k="abc", l="xyz", a=_DIGITS, b=_DIGITS),
]

# finance: labels from small vocabularies, as a back office would tag its mail

_FIRMS = [
    "Acme",
    "Borealis",
    "Cobalt",
    "Delphi",
    "Everest",
    "Falcon",
    "Granite",
    "Helios",
    "Indigo",
    "Juno",
    "Kestrel",
    "Lumen",
    "Nimbus",
    "Orion",
]


def _label(labels: dict[str, str], *phrasings: str) -> _Kind:
    """A kind that asks which label fits a text `{x}`; `labels` maps each label to its texts, separated by '|'."""
    *most, last = (f"#{label}" for label in labels)
    choices = f" {', '.join(most)} or {last}?"

    def draw(rng: random.Random):
        label, texts = rng.choice(list(labels.items()))
        text = rng.choice(texts.split("|")).format(firm=rng.choice(_FIRMS), n=rng.randrange(2, 40))
        return {"x": text}, label, _other(rng, list(labels), label)

    return _Kind(tuple(phrasing + choices for phrasing in phrasings), draw)


_FINANCE = [
    _label(
        {
            "positive": "{firm} beats profit forecast|{firm} shares jump {n}%|{firm} wins a record order",
            "negative": "{firm} misses profit forecast|{firm} shares plunge {n}%|{firm} loses a key customer",
            "neutral": "{firm} holds its annual meeting|{firm} shares unchanged|{firm} reports on {n} May",
        },
        "Headline: {x}.",
        "Mood of the news '{x}':",
        "{x}. Is this",
    ),
    _label(
        {
            "buy": "{firm} is cheap, we expect a gain of {n}%|{firm} deserves more weight, target up {n}%",
            "sell": "{firm} is overpriced, we expect a loss of {n}%|{firm} deserves less weight, target down {n}%",
            "hold": "{firm} is fairly priced, stay put|{firm} at its target of {n}, no action",
        },
        "Analyst note: {x}.",
        "'{x}' - the advice is",
        "Rating for: {x}.",
    ),
    _label(
        {
            "income": "salary from {firm}|dividend of {n} dollars from {firm}|interest received of {n} dollars",
            "expense": "rent of {n} dollars to {firm}|phone bill from {firm}|insurance fee of {n} dollars",
        },
        "Book this entry: {x}.",
        "Bank line: {x}.",
        "My statement shows {x}. Is it",
    ),
    _label(
        {
            "asset": "cash of {n} million at {firm}|a factory owned by {firm}|{n} delivery vans of {firm}",
            "liability": "a bank loan of {n} million to {firm}|unpaid bills of {firm}|taxes {firm} owes",
        },
        "Balance sheet: {x}.",
        "Where do you book {x}?",
        "{x}:",
    ),
    _label(
        {
            "gain": "{firm} stake sold {n}% above cost|{firm} shares sold for {n} more than paid",
            "loss": "{firm} stake sold {n}% below cost|{firm} shares sold for {n} less than paid",
        },
        "Trade: {x}.",
        "Closed position: {x}.",
        "We report: {x}. Result",
    ),
    _label(
        {
            "stock": "ordinary shares of {firm}|a {n}% stake in {firm}",
            "bond": "a {n}-year loan note of {firm}|{firm} debt paying {n}% coupon",
            "cash": "{n} dollars at {firm} bank|a {n}-day deposit at {firm}",
        },
        "Asset class of {x}:",
        "Client holds {x}.",
        "Sort {x} under",
    ),
    _label(
        {
            "high": "{firm} startup shares|{firm} crypto token, moves {n}% a day|borrowing to bet on {firm}",
            "low": "a {firm} savings account|insured {n}-month deposit at {firm}|{firm} treasury bill fund",
        },
        "Risk of {x}:",
        "How risky is {x}?",
        "Client asks about {x}. Risk level",
    ),
    _label(
        {
            "suspicious": "{n} transfers to unknown accounts at 3 am|card of {firm} used in {n} countries today",
            "normal": "monthly rent to {firm}|lunch for {n} dollars near {firm}|salary of {firm} staff on payday",
        },
        "Payment check: {x}.",
        "Fraud desk: {x}.",
        "We saw: {x}. Is it",
    ),
    _label(
        {
            "energy": "{firm} oil fields|{firm} gas pipelines|{n} wind parks of {firm}",
            "health": "{firm} vaccines|{n} clinics of {firm}|{firm} drug trials",
            "tech": "{firm} software|{firm} chips|{n} data centres of {firm}",
        },
        "Sector of {x}:",
        "An investor buys into {x}.",
        "{x} fall under",
    ),
    _label(
        {
            "up": "{firm} gets a takeover bid|{firm} buys back {n}% of its shares|demand for {firm} goods soars",
            "down": "{firm} is fined {n} million|{firm} recalls {n} products|the chief of {firm} is arrested",
        },
        "The price reaction: {x}.",
        "After '{x}' the share goes",
        "If {x}, the stock moves",
    ),
    _label(
        {
            "approve": "{firm} pays on time and earns {n} times its interest|{firm} has no debt, {n} million in cash",
            "decline": "{firm} missed {n} payments|{firm} is bankrupt and owes {n} million",
        },
        "Loan request: {x}.",
        "Credit desk: {x}. Decision",
        "Borrower file: {x}. We",
    ),
    _label(
        {
            "urgent": "{firm} account locked|{firm} card stolen {n} minutes ago|wire of {n} million missing at {firm}",
            "routine": "{firm} wants a new brochure|{firm} asks for opening hours|{firm} moves in {n} weeks",
        },
        "Client mail: {x}.",
        "Inbox of the bank: {x}.",
        "Sort this ticket: {x}.",
    ),
]

# Per domain: its kinds, the hint that ends every question, and the form of its answers.
_DOMAINS = {
    "general": (_GENERAL, " (-> word)", "-> {}"),
    "math": (_MATH, " (= number)", "= {}"),
    "code": (_CODE, " >>>", ">>> {}"),
    "finance": (_FINANCE, "", "#{}"),
}
