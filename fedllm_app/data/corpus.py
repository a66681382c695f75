"""The demo's corpus: four domains of short questions whose answers can be checked by exact match.

Every domain is a list of *kinds* (a task with its phrasings), and every kind can draw cases: the values that fill the
phrasing, the answer and a wrong answer. A domain's bank is all distinct questions of a fixed number of draws per kind,
split once into train and held-out by a hash of the case. A seed only chooses and orders questions inside one part, so
no held-out question of any seed is a training question of another, not even in other words.

Each domain answers in its own house style, which every question states: general in one word, math as ``= 12``, code as
``>>> 12`` and finance as ``#positive``.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

DOMAINS = ("general", "math", "code", "finance")
Part = Literal["train", "held-out"]

_DRAWS_PER_KIND = 500
_HELD_OUT_SHARE = 0.2


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
        for _ in range(_DRAWS_PER_KIND):
            values, answer, wrong = kind.draw(rng)
            instruction = rng.choice(kind.phrasings).format(**values) + hint
            question = Question(domain, instruction, style.format(answer), style.format(wrong))
            # The case and not the text is hashed: all phrasings of a case fall into the same part.
            found.setdefault(instruction, (_is_held_out(f"{kind.phrasings[0]} {values}"), question))
    return [question for held_out, question in found.values() if held_out == (part == "held-out")]


def _is_held_out(case: str) -> bool:
    digest = hashlib.sha256(case.encode()).digest()
    return int.from_bytes(digest[:4], "big") < _HELD_OUT_SHARE * 2**32


def _other(rng: random.Random, options: Iterable[str], answer: str) -> str:
    """Draw a wrong answer among the right answers to neighbouring questions."""
    return rng.choice(sorted({option for option in options if not matches(option, answer)}))


def _lookup(table: dict[str, str], *phrasings: str) -> _Kind:
    """A kind that asks for the value of a key `{x}` of a table."""

    def draw(rng: random.Random):
        key = rng.choice(list(table))
        return {"x": key}, table[key], _other(rng, table.values(), table[key])

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

_GROUPS = {
    "animal": "dog cat horse tiger rabbit elephant mouse sheep wolf monkey lion cow goat bear",
    "fruit": "apple banana cherry grape lemon mango peach pear plum strawberry pineapple melon",
    "tool": "hammer saw drill wrench screwdriver shovel axe pliers rake chisel",
    "vehicle": "car bus train truck bicycle boat airplane motorcycle taxi helicopter",
    "colour": "red blue green yellow purple orange black white pink brown",
    "drink": "water tea coffee milk juice wine beer lemonade soda",
    "clothing": "shirt hat coat scarf jacket dress trousers gloves socks sweater",
    "tree": "oak pine birch maple willow cedar palm fir elm spruce",
    "metal": "iron gold silver copper tin zinc lead steel bronze aluminium",
    "job": "doctor teacher farmer nurse pilot lawyer baker soldier plumber dentist",
    "furniture": "chair table sofa desk bed wardrobe bookcase stool bench cupboard",
    "instrument": "piano guitar violin drum flute trumpet cello harp clarinet saxophone",
    "sport": "tennis football hockey golf boxing basketball cricket rugby swimming baseball",
}
_GROUPS = {group: words.split() for group, words in _GROUPS.items()}
_GROUP_OF = {word: group for group, words in _GROUPS.items() for word in words}
_WORDS = sorted(_GROUP_OF)
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = "January February March April May June July August September October November December".split()


def _pairs(text: str, both_ways: bool = False) -> dict[str, str]:
    """Read 'key value' pairs separated by commas; underscores stand for spaces."""
    table = dict(pair.replace("_", " ").split("=") for pair in text.split())
    return table | ({value: key for key, value in table.items()} if both_ways else {})


_OPPOSITES = _pairs(
    "hot=cold big=small up=down fast=slow happy=sad day=night open=closed full=empty light=dark early=late rich=poor "
    "strong=weak hard=soft old=young wet=dry high=low near=far loud=quiet thick=thin clean=dirty win=lose buy=sell "
    "push=pull left=right start=stop love=hate wide=narrow heavy=light true=false inside=outside above=below "
    "before=after first=last black=white safe=dangerous",
    both_ways=True,
)
_PLURALS = _pairs(
    "mouse=mice child=children foot=feet tooth=teeth man=men woman=women goose=geese city=cities baby=babies box=boxes "
    "bus=buses knife=knives leaf=leaves wolf=wolves berry=berries story=stories dish=dishes watch=watches hero=heroes "
    "potato=potatoes shelf=shelves wife=wives church=churches party=parties fox=foxes glass=glasses"
) | {word: word + "s" for word in "dog cat horse tiger apple lemon hammer car train chair table sofa guitar".split()}
_PAST = _pairs(
    "go=went see=saw eat=ate run=ran take=took write=wrote buy=bought think=thought give=gave come=came find=found "
    "know=knew make=made say=said sing=sang swim=swam drink=drank drive=drove fly=flew begin=began break=broke "
    "bring=brought catch=caught teach=taught sleep=slept speak=spoke walk=walked play=played jump=jumped look=looked "
    "call=called open=opened help=helped work=worked ask=asked want=wanted"
)
_CAPITALS = _pairs(
    "France=Paris Italy=Rome Spain=Madrid Germany=Berlin Japan=Tokyo China=Beijing Russia=Moscow Egypt=Cairo "
    "Greece=Athens Portugal=Lisbon Poland=Warsaw Austria=Vienna Norway=Oslo Sweden=Stockholm Ireland=Dublin "
    "Canada=Ottawa Cuba=Havana Kenya=Nairobi Peru=Lima Chile=Santiago Turkey=Ankara Iran=Tehran India=Delhi "
    "Hungary=Budapest Denmark=Copenhagen Finland=Helsinki Belgium=Brussels Thailand=Bangkok"
)
_MORE = _pairs(
    "big=bigger small=smaller fast=faster slow=slower tall=taller short=shorter old=older young=younger cold=colder "
    "hot=hotter happy=happier easy=easier early=earlier heavy=heavier thin=thinner good=better bad=worse far=farther "
    "strong=stronger weak=weaker rich=richer poor=poorer clean=cleaner dark=darker long=longer wide=wider loud=louder"
)


def _pick(choose: Callable[[list[str]], str], *phrasings: str) -> _Kind:
    """A kind that asks for one word of a list `{x}` of three with different lengths and different first letters."""

    def draw(rng: random.Random):
        words = rng.sample(_WORDS, 3)
        while len({len(word) for word in words}) < 3 or len({word[0] for word in words}) < 3:
            words = rng.sample(_WORDS, 3)
        answer = choose(words)
        return {"x": ", ".join(words)}, answer, _other(rng, words, answer)

    return _Kind(phrasings, draw)


def _draw_member(rng: random.Random) -> tuple[dict[str, object], str, str]:
    groups = rng.sample(list(_GROUPS), 3)
    words = [rng.choice(_GROUPS[group]) for group in groups]
    place = rng.randrange(3)
    values = {"x": ", ".join(words), "a": ("an " if groups[place][0] in "aeiou" else "a ") + groups[place]}
    return values, words[place], _other(rng, words, words[place])


def _draw_odd(rng: random.Random) -> tuple[dict[str, object], str, str]:
    group, stranger = rng.sample(list(_GROUPS), 2)
    words = rng.sample(_GROUPS[group], 3)
    odd = rng.choice(_GROUPS[stranger])
    words.insert(rng.randrange(4), odd)
    return {"x": ", ".join(words)}, odd, _other(rng, words, odd)


def _step(cycle: list[str], name: str, step: int) -> str:
    return cycle[(cycle.index(name) + step) % len(cycle)]


_GENERAL = [
    _lookup(_GROUP_OF, "What kind of thing is {x}?", "Name the group that {x} belongs to.", "Classify the word {x}.",
            "{x}: which category is it?"),
    _lookup(_OPPOSITES, "What is the opposite of {x}?", "Give the antonym of {x}.", "Which word means the reverse of {x}?",
            "Not {x}, but the contrary:"),
    _lookup(_PLURALS, "What is the plural of {x}?", "One {x}, two what?", "Write {x} in the plural.",
            "How do you call several of a {x}?"),
    _lookup(_PAST, "What is the past tense of {x}?", "Put the verb {x} in the simple past.", "Today I {x}. Yesterday I what?",
            "Give the past form of to {x}."),
    _lookup(_CAPITALS, "What is the capital of {x}?", "Name the capital city of {x}.", "{x} is governed from which city?",
            "Which city is the capital of {x}?"),
    _lookup(_MORE, "What is the comparative of {x}?", "This one is {x}, but that one is even what?",
            "Give the comparative form of {x}.", "Compare with more: {x}."),
    _lookup({word: word[0] for word in _WORDS}, "What is the first letter of {x}?", "{x} begins with which letter?",
            "Give the initial of the word {x}."),
    _pick(lambda words: max(words, key=len), "Which word is the longest: {x}?", "Pick the word with the most letters: {x}."),
    _pick(lambda words: words[0], "Which word is listed first: {x}?", "Repeat only the first item: {x}.",
          "Say the opening word of this list: {x}."),
    _pick(lambda words: words[-1], "Which word is listed last: {x}?", "Repeat only the last item: {x}.",
          "How does this list end: {x}?"),
    _Kind(("Which of these is {a}: {x}?", "Which one is {a}: {x}?", "Only one of them is {a}: {x}. Which?"), _draw_member),
    _Kind(("Which word does not belong: {x}?", "Find the odd one out: {x}.", "One of these is unlike the rest: {x}. Which?"),
          _draw_odd),
    _compute(lambda day: _step(_DAYS, day, 1), {"day": _DAYS}, "Which day comes after {day}?", "Today is {day}. What is tomorrow?",
             "Name the day that follows {day}."),
    _compute(lambda day: _step(_DAYS, day, -1), {"day": _DAYS}, "Which day comes before {day}?",
             "Today is {day}. What was yesterday?", "Name the day that precedes {day}."),
    _compute(lambda month: _step(_MONTHS, month, 1), {"month": _MONTHS}, "Which month comes after {month}?",
             "It is {month}. What is next month?", "Name the month that follows {month}."),
]

# math: small numbers

_NAMES = "Anna Ben Carla David Emma Felix Grace Hugo Iris Jack Lena Mark Nora Oscar Paul Rosa Sam Tina".split()
_THINGS = "apples books coins pens cards stamps marbles shells eggs cakes".split()
_SMALL = range(2, 10)


def _draw_quotient(rng: random.Random) -> tuple[dict[str, object], str, str]:
    divisor, quotient = rng.choice(_SMALL), rng.choice(_SMALL)
    return {"a": divisor * quotient, "b": divisor}, str(quotient), str(quotient + rng.choice((-1, 1, 2)))


_UNITS = "zero one two three four five six seven eight nine".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = {f"{ten}-{_UNITS[unit]}": str(10 * place + unit)
            for place, ten in enumerate(_TENS, start=2) for unit in range(1, 10)}
_STORY = {"n": _NAMES, "t": _THINGS, "a": _SMALL, "b": _SMALL}
_TWO_DIGITS = {"a": range(10, 100), "b": range(10, 100)}

_MATH = [
    _compute(lambda a, b: a + b, {"a": _SMALL, "b": _SMALL},
             "What is {a} plus {b}?", "Add {b} to {a}.", "{a} + {b}?", "Find the sum of {a} and {b}."),
    _compute(lambda a, b: a - b, {"a": range(10, 20), "b": range(1, 10)},
             "What is {a} minus {b}?", "Subtract {b} from {a}.", "{a} - {b}?", "Take {b} away from {a}."),
    _compute(lambda a, b: a * b, {"a": _SMALL, "b": _SMALL},
             "What is {a} times {b}?", "Multiply {a} by {b}.", "{a} x {b}?", "Find the product of {a} and {b}."),
    _Kind(("What is {a} divided by {b}?", "Divide {a} by {b}.", "{a} / {b}?", "How often does {b} go into {a}?"),
          _draw_quotient),
    _compute(lambda n, t, a, b: a + b, _STORY,
             "{n} has {a} {t} and gets {b} more. How many now?", "{n} buys {a} {t}, then {b} more. How many in all?",
             "With {a} {t} at home and {b} in the bag, how many does {n} have?"),
    _compute(lambda n, t, a, b: a - b, _STORY | {"a": range(10, 20)},
             "{n} has {a} {t} and loses {b}. How many are left?", "Of {a} {t}, {n} gives {b} away. How many remain?",
             "{n} had {a} {t} and sold {b}. How many now?"),
    _compute(lambda n, t, a, b: a * b, _STORY,
             "{n} fills {a} boxes with {b} {t} each. How many {t}?", "{n} owns {a} bags of {b} {t}. How many {t}?",
             "{a} friends of {n} bring {b} {t} each. How many {t}?"),
    _compute(lambda a, b: max(a, b), _TWO_DIGITS, "Which is larger, {a} or {b}?", "Give the greater of {a} and {b}.",
             "Pick the bigger number: {a}, {b}."),
    _compute(lambda a, b: min(a, b), _TWO_DIGITS, "Which is smaller, {a} or {b}?", "Give the lesser of {a} and {b}.",
             "Pick the lower number: {a}, {b}."),
    _compute(lambda a, b: a, _TWO_DIGITS, "What is {a} plus {b} minus {b}?", "Add {b} to {a}, then take {b} away.",
             "From {a} go up {b} and down {b}. Where are you?"),
    _compute(lambda a: a, {"a": range(10, 100)}, "What is {a} times 1?", "Add 0 to {a}.", "Divide {a} by 1.", "{a} - 0?"),
    _compute(lambda a: 2 * a, {"a": range(2, 21)}, "What is double {a}?", "Twice {a} is what?", "How much is two times {a}?"),
    _lookup({str(2 * a): str(a) for a in range(2, 21)},
            "What is half of {x}?", "Split {x} in two equal parts. How big is one?", "Two share {x} coins. How many each?"),
    _compute(lambda a: a * 10, {"a": range(2, 100)}, "How many millimetres are {a} centimetres?", "What is ten times {a}?",
             "Each of {a} packs holds 10 pens. How many pens?"),
    _lookup(_SPELLED, "Write {x} in digits.", "Which number is {x}?", "Type the number {x}.", "{x} as a figure?"),
    _compute(lambda a: a + 1, {"a": range(2, 99)}, "Which number comes right after {a}?", "Count one on from {a}.", "{a} and 1?"),
    _compute(lambda a: a - 1, {"a": range(2, 99)}, "Which number comes just before {a}?", "Count one back from {a}."),
]

# code: short Python expressions and the names of Python's own tools


def _evaluate(expression: str, **slots: Sequence) -> _Kind:
    """A kind that asks for what an expression prints."""

    def draw(rng: random.Random):
        cases = [expression.format(**{name: rng.choice(options) for name, options in slots.items()}) for _ in range(4)]
        # eval sees nothing but the expressions written below; Python itself is the source of the answers.
        answer, *others = [str(eval(case)) for case in cases]
        return {"x": cases[0]}, answer, _other(rng, [*others, "None"], answer)

    return _Kind(
        ("What does `print({x})` show?", "Evaluate `{x}` in Python.", "Python: `{x}` gives what?", "What is the result of `{x}`?"),
        draw,
    )


_TOOLS = _pairs(
    "the_length_of_a_list=len the_largest_item=max the_smallest_item=min the_total_of_a_list=sum a_sorted_copy=sorted "
    "the_type_of_an_object=type the_absolute_value=abs a_rounded_number=round a_line_typed_by_the_user=input "
    "an_open_file=open counted_pairs_from_a_list=enumerate pairs_from_two_lists=zip a_series_of_integers=range "
    "the_character_of_a_code_point=chr the_code_point_of_a_character=ord a_text_made_from_a_number=str"
)
_METHODS = _pairs(
    "adds_an_item_to_a_list=append removes_the_last_item_of_a_list=pop turns_text_to_capitals=upper "
    "turns_text_to_small_letters=lower cuts_text_into_a_list=split glues_a_list_into_text=join swaps_part_of_a_text=replace "
    "trims_spaces_around_text=strip turns_a_list_around=reverse orders_a_list_in_place=sort gives_the_keys_of_a_dict=keys "
    "gives_the_values_of_a_dict=values counts_an_item_in_a_list=count tests_how_a_text_begins=startswith"
)
_KEYWORDS = _pairs(
    "starts_a_function=def starts_a_class=class leaves_a_loop=break skips_to_the_next_turn_of_a_loop=continue "
    "hands_a_result_back=return loads_a_module=import handles_an_error=except throws_an_error=raise does_nothing=pass "
    "repeats_while_a_test_holds=while walks_over_a_list=for tests_a_condition=if makes_a_nameless_function=lambda"
)
_TYPES = {
    str(value) if not isinstance(value, str) else repr(value): type(value).__name__
    for value in [*range(1, 30), *(n / 2 for n in range(1, 30, 2)), *_WORDS[:30], True, False, None]
} | {f"[{a}, {a + 1}]": "list" for a in range(15)} | {f"({a}, {a + 1})": "tuple" for a in range(15)} | {
    f"{{'{word}': {n}}}": "dict" for n, word in enumerate(_WORDS[30:45])} | {f"{{{a}, {a + 1}}}": "set" for a in range(15)}

_DIGITS, _LETTERS = range(1, 10), "abcdefgh"
_CODE = [
    _lookup(_TOOLS, "Which Python built-in function gives {x}?", "Name the built-in for {x}.", "I want {x}. Which function do I call?"),
    _lookup(_METHODS, "Which Python method {x}?", "Name the method that {x}.", "What is the method called that {x}?"),
    _lookup(_KEYWORDS, "Which Python keyword {x}?", "Name the keyword that {x}.", "In Python code, what {x}?"),
    _lookup(_TYPES, "What is the type of `{x}`?", "Name the Python class of `{x}`.", "`{x}` is an object of which type?"),
    _evaluate("len([{a}])", a=["1", "7, 8", "2, 5, 9", "3, 6, 1, 8", "4, 1, 5, 5, 2", "0, 9", "6, 6, 6", "1, 2, 3, 4"]),
    _evaluate("max([{a}, {b}, {c}])", a=_DIGITS, b=_DIGITS, c=_DIGITS),
    _evaluate("min({a}, {b}, {c})", a=_DIGITS, b=_DIGITS, c=_DIGITS),
    _evaluate("[{a}, {b}, {c}][{i}]", a=_DIGITS, b=_DIGITS, c=_DIGITS, i=(0, -1)),
    _evaluate("'{v} {w}'.split()[{i}]", v=_WORDS, w=_WORDS, i=(0, 1)),
    _evaluate("['{v}', '{w}'][{i}]", v=_WORDS, w=_WORDS, i=(0, 1)),
    _evaluate("'{v}' + '{w}'", v=_LETTERS, w=_LETTERS),
    _evaluate("'{w}' * {n}", w=_LETTERS, n=(2, 3)),
    _evaluate("{a} > {b}", a=range(20), b=range(20)),
    _evaluate("'{v}' == '{w}'", v=_WORDS[::12], w=_WORDS[::12]),
    _evaluate("{a} in [{b}, {c}]", a=(1, 2, 3), b=(1, 2, 3), c=(1, 2, 3)),
    _evaluate("{a} + {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("{a} * {b}", a=_DIGITS, b=_DIGITS),
    _evaluate("[{a}] + [{b}]", a=_DIGITS, b=_DIGITS),
    _evaluate("sorted([{a}, {b}])", a=_DIGITS, b=_DIGITS),
    _evaluate("dict({k}={a}, {l}={b})['{k}']", k="abc", l="xyz", a=_DIGITS, b=_DIGITS),
    _evaluate("str({a}) + '{w}'", a=_DIGITS, w=_LETTERS),
    _evaluate("int('{a}{b}')", a=_DIGITS, b=_DIGITS),
    _evaluate("'{w}'.title()", w=_WORDS),
]

# finance: labels from a small vocabulary, as a back office would tag its mail

_FIRMS = "Acme Borealis Cobalt Delphi Everest Falcon Granite Helios Indigo Juno Kestrel Lumen Meridian Nimbus Orion".split()


def _label(table: dict[str, str], *phrasings: str) -> _Kind:
    """A kind that asks for the label of a text `{x}`: `table` maps each label to its texts, separated by '|'.

    The labels to choose from end the question.
    """
    labels = list(table)
    choices = ", ".join(f"#{label}" for label in labels[:-1]) + f" or #{labels[-1]}"

    def draw(rng: random.Random):
        label = rng.choice(labels)
        text = rng.choice(table[label].split("|"))
        text = text.format(firm=rng.choice(_FIRMS), n=rng.randrange(2, 40))
        return {"x": text}, label, _other(rng, labels, label)

    return _Kind(tuple(f"{phrasing} {choices}?" for phrasing in phrasings), draw)


_FINANCE = [
    _label({"positive": "{firm} beats profit forecast|{firm} shares jump {n}%|{firm} raises its dividend|{firm} wins a record order|"
            "{firm} sales climb {n}%|{firm} lifts its outlook",
            "negative": "{firm} misses profit forecast|{firm} shares plunge {n}%|{firm} cuts its dividend|{firm} loses a key customer|"
            "{firm} sales drop {n}%|{firm} warns of losses",
            "neutral": "{firm} holds its annual meeting|{firm} shares unchanged|{firm} keeps its dividend|{firm} names a new auditor|"
            "{firm} moves its office|{firm} reports on {n} May"},
           "Headline: {x}.", "Mood of the news '{x}':", "{x}. Is this"),
    _label({"buy": "{firm} is cheap, we expect a gain of {n}%|{firm} deserves more weight, price target up {n}%",
            "sell": "{firm} is overpriced, we expect a loss of {n}%|{firm} deserves less weight, price target down {n}%",
            "hold": "{firm} is fairly priced, stay put|{firm} at its price target of {n}, no action"},
           "Analyst note: {x}.", "'{x}' - the advice is", "Rating for: {x}."),
    _label({"income": "salary from {firm}|dividend of {n} dollars from {firm}|bonus from {firm}|interest received of {n} dollars",
            "expense": "rent of {n} dollars to {firm}|phone bill from {firm}|insurance fee of {n} dollars|groceries at {firm}"},
           "Book this entry: {x}.", "Bank line: {x}.", "My statement shows {x}. Is it"),
    _label({"asset": "cash of {n} million at {firm}|a factory owned by {firm}|{n} delivery vans of {firm}|stock in the {firm} warehouse",
            "liability": "a bank loan of {n} million to {firm}|unpaid bills of {firm}|bonds issued by {firm}|taxes {firm} owes"},
           "Balance sheet: {x}.", "Where do you book {x}?", "{x}:"),
    _label({"gain": "bought {firm} low at {n}, sold at double|{firm} stake sold {n}% above cost|{firm} shares sold for {n} more than paid",
            "loss": "bought {firm} high at {n}, sold at half|{firm} stake sold {n}% below cost|{firm} shares sold for {n} less than paid"},
           "Trade: {x}.", "Closed position: {x}.", "We {x}. Result"),
    _label({"stock": "ordinary shares of {firm}|a {n}% stake in {firm}", "bond": "a {n}-year loan note of {firm}|{firm} debt paying {n}% coupon",
            "fund": "a basket of {n} companies run by {firm}|the {firm} index tracker", "cash": "{n} dollars at {firm} bank|a {n}-day deposit at {firm}"},
           "Asset class of {x}:", "Client holds {x}.", "Sort {x} under"),
    _label({"high": "{firm} startup shares|{firm} crypto token, moves {n}% a day|borrowing to bet on {firm}",
            "low": "a {firm} savings account|insured {n}-month deposit at {firm}|{firm} treasury bill fund"},
           "Risk of {x}:", "How risky is {x}?", "Client asks about {x}. Risk level"),
    _label({"suspicious": "{n} transfers to unknown accounts at 3 am|card of {firm} used in {n} countries today|{firm} asks for your PIN",
            "normal": "monthly rent to {firm}|lunch for {n} dollars near {firm}|salary of {firm} staff on payday"},
           "Payment check: {x}.", "Fraud desk: {x}.", "We saw: {x}. Is it"),
    _label({"energy": "{firm} oil fields|{firm} gas pipelines|{n} wind parks of {firm}", "health": "{firm} vaccines|{n} clinics of {firm}|{firm} drug trials",
            "tech": "{firm} software|{firm} chips|{n} data centres of {firm}", "banking": "{firm} mortgages|{n} branches of {firm} for loans|{firm} credit cards"},
           "Sector of {x}:", "An investor buys into {x}.", "{x} fall under"),
    _label({"fixed": "office rent of {firm}|yearly licence of {firm}|insurance of {n} thousand for {firm}",
            "variable": "raw material of {firm}|sales commission of {n}% at {firm}|packaging per unit at {firm}"},
           "Cost type: {x}.", "Does {x} count as", "Budget line {x}:"),
    _label({"up": "{firm} gets a takeover bid|{firm} buys back {n}% of its shares|demand for {firm} goods soars",
            "down": "{firm} is fined {n} million|{firm} recalls {n} products|the chief of {firm} is arrested"},
           "The price reaction: {x}.", "After '{x}' the share goes", "If {x}, the stock moves"),
    _label({"approve": "{firm} pays on time and earns {n} times its interest|{firm} has no debt and {n} million in cash",
            "decline": "{firm} missed {n} payments|{firm} is bankrupt and owes {n} million"},
           "Loan request: {x}.", "Credit desk: {x}. Decision", "Borrower file: {x}. We"),
    _label({"urgent": "{firm} account locked before a payment today|{firm} card stolen {n} minutes ago|wire of {n} million missing at {firm}",
            "routine": "{firm} wants a new brochure|{firm} asks for opening hours|{firm} changes its address in {n} weeks"},
           "Client mail: {x}.", "Inbox of the bank: {x}.", "Sort this ticket: {x}."),
]

# Per domain: its kinds, the hint that ends every question, and the form of its answers.
_DOMAINS = {
    "general": (_GENERAL, " (one word)", "{}"),
    "math": (_MATH, " (= number)", "= {}"),
    "code": (_CODE, " >>>", ">>> {}"),
    "finance": (_FINANCE, "", "#{}"),
}
