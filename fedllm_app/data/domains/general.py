"""The domain "general": knowledge of words."""

import random
from collections.abc import Callable

from fedllm_app.data.domains.kinds import Kind, lookup, pairs, wrong_answer

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
WORDS, _GROUPS = sorted(_GROUP_OF), sorted(set(_GROUP_OF.values()))
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


_OPPOSITES = pairs(
    "hot=cold big=small up=down fast=slow happy=sad day=night open=closed full=empty light=dark early=late rich=poor "
    "strong=weak hard=soft old=young wet=dry high=low near=far loud=quiet thick=thin clean=dirty win=lose buy=sell "
    "push=pull left=right start=stop love=hate wide=narrow true=false inside=outside above=below first=last"
)
_OPPOSITES |= {right: left for left, right in _OPPOSITES.items()}
_PLURALS = {
    word: word + "s"
    for word in ["dog", "cat", "horse", "tiger", "apple", "lemon", "hammer", "car", "train", "chair", "table", "sofa"]
}
_PLURALS |= pairs(
    "mouse=mice child=children foot=feet tooth=teeth man=men woman=women goose=geese city=cities baby=babies box=boxes "
    "bus=buses knife=knives leaf=leaves wolf=wolves berry=berries story=stories dish=dishes watch=watches fox=foxes "
    "potato=potatoes shelf=shelves wife=wives party=parties glass=glasses"
)
_PAST = pairs(
    "go=went see=saw eat=ate run=ran take=took write=wrote buy=bought think=thought give=gave come=came find=found "
    "know=knew make=made say=said sing=sang swim=swam drink=drank drive=drove fly=flew begin=began break=broke "
    "bring=brought catch=caught teach=taught sleep=slept speak=spoke walk=walked play=played jump=jumped look=looked"
)
_CAPITALS = pairs(
    "France=Paris Italy=Rome Spain=Madrid Germany=Berlin Japan=Tokyo China=Beijing Russia=Moscow Egypt=Cairo "
    "Greece=Athens Portugal=Lisbon Poland=Warsaw Austria=Vienna Norway=Oslo Sweden=Stockholm Ireland=Dublin "
    "Canada=Ottawa Cuba=Havana Kenya=Nairobi Peru=Lima Chile=Santiago Turkey=Ankara Iran=Tehran "
    "Hungary=Budapest Finland=Helsinki Belgium=Brussels"
)


def _pick(choose: Callable[[list[str]], str], *phrasings: str) -> Kind:
    """A kind that asks for one word of a list `{x}` of three words, all of different lengths."""

    def draw(rng: random.Random):
        words = rng.sample(WORDS, 3)
        while len({len(word) for word in words}) < 3:
            words = rng.sample(WORDS, 3)
        return {"x": ", ".join(words)}, choose(words), wrong_answer(rng, words, choose(words))

    return Kind(phrasings, draw)


def _draw_member(rng: random.Random) -> tuple[dict[str, object], str, str]:
    words = [rng.choice([word for word in WORDS if _GROUP_OF[word] == group]) for group in rng.sample(_GROUPS, 3)]
    answer = rng.choice(words)
    return {"x": ", ".join(words), "a": _GROUP_OF[answer]}, answer, wrong_answer(rng, words, answer)


def _draw_odd(rng: random.Random) -> tuple[dict[str, object], str, str]:
    group, stranger = rng.sample(_GROUPS, 2)
    odd = rng.choice([word for word in WORDS if _GROUP_OF[word] == stranger])
    words = rng.sample([word for word in WORDS if _GROUP_OF[word] == group], 3)
    words.insert(rng.randrange(4), odd)
    return {"x": ", ".join(words)}, odd, wrong_answer(rng, words, odd)


GENERAL = [
    lookup(
        _GROUP_OF,
        "What kind of thing is {x}?",
        "Name the group that {x} belongs to.",
        "Classify the word {x}.",
        "{x}: which category is it?",
    ),
    lookup(
        _OPPOSITES,
        "What is the opposite of {x}?",
        "Give the antonym of {x}.",
        "Which word means the reverse of {x}?",
        "Not {x}, but the contrary:",
    ),
    lookup(
        _PLURALS,
        "What is the plural of {x}?",
        "One {x}, two what?",
        "Write {x} in the plural.",
        "Not one {x} but many what?",
    ),
    lookup(
        _PAST,
        "What is the past tense of {x}?",
        "Put the verb {x} in the simple past.",
        "Today I {x}. Yesterday I what?",
        "Give the past form of to {x}.",
    ),
    lookup(
        _CAPITALS,
        "What is the capital of {x}?",
        "Name the capital city of {x}.",
        "{x} is ruled from which city?",
        "Which city is the capital of {x}?",
    ),
    lookup(
        {word: word[0] for word in WORDS},
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
    Kind(
        (
            "Which word falls under {a}: {x}?",
            "Find the {a} in this list: {x}.",
            "Only one is in the group {a}: {x}. Which?",
        ),
        _draw_member,
    ),
    Kind(
        (
            "Which word does not belong: {x}?",
            "Find the odd one out: {x}.",
            "One of these is unlike the rest: {x}. Which?",
        ),
        _draw_odd,
    ),
    lookup(
        dict(zip(_DAYS, _DAYS[1:] + _DAYS[:1], strict=True)),
        "Which day comes after {x}?",
        "Today is {x}. What is tomorrow?",
        "Name the day that follows {x}.",
    ),
]
