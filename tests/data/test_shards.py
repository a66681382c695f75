"""Tokenized shards. A token is a byte; <|begin|> is 0 and <|end|> is 1.

The tokenizer's template makes of "Hi": <|begin|> + "user\\n" + "Hi" + <|end|> + "\\n" + <|begin|> + "assistant\\n",
that is 1 + 5 + 2 + 1 + 1 + 1 + 10 = 21 tokens; the completion "Yo" + <|end|> is 3 more.
"""

import itertools

import numpy as np
import pytest

from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.order import batches, walk
from fedllm_app.data.shards import (
    EmptyShard,
    PairShard,
    Refusals,
    Shard,
    cached,
    join,
    row_labels,
    tokenize,
    tokenize_pairs,
)
from fedllm_app.data.templates import get_template
from fedllm_app.models.base import load_tokenizer, locate_model

BEGIN, END = 0, 1
HI = Example((("user", "Hi"),), "Yo")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(locate_model(str(tiny_model)))


def made(tokenizer, examples, max_length=100, template="tokenizer", system_prompt=None, learn_turns="last") -> Shard:
    return tokenize(examples, get_template(template, tokenizer), tokenizer, max_length, system_prompt, learn_turns)


def made_of_pairs(tokenizer, answers, max_length=100, question="Hi") -> PairShard:
    pairs = [PreferencePair((("user", question),), chosen, rejected) for chosen, rejected in answers]
    return tokenize_pairs(pairs, get_template("tokenizer", tokenizer), tokenizer, max_length, None)


def same(one: Shard, other: Shard) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    return arrays and all(getattr(one, name) == getattr(other, name) for name in ("dropped", "cut", "refused"))


ARRAYS = ("tokens", "offsets", "starts", "learnt")
TALK = Example((("user", "a"), ("assistant", "bc"), ("user", "d")), "ef")


def test_the_completion_begins_after_the_prompt_and_ends_with_the_end_token(tokenizer):
    shard = made(tokenizer, [HI])
    ids, start = shard.example(0)
    assert (len(ids), start) == (24, 21)
    assert tokenizer.decode(ids[:start]) == "<|begin|>user\nHi<|end|>\n<|begin|>assistant\n"
    assert tokenizer.decode(ids[start:]) == "Yo<|end|>"
    assert ids[-1] == END
    assert ids.dtype == np.int32


def test_a_completion_that_holds_the_templates_words_is_whole(tokenizer):
    """Where a marker is searched for in token ids, the completion would begin after its last occurrence."""
    ids, start = made(tokenizer, [Example(HI.prompt, "a\nassistant\nb")]).example(0)
    assert start == 21
    assert tokenizer.decode(ids[start:]) == "a\nassistant\nb<|end|>"


def test_a_row_whose_prompt_fills_the_window_is_dropped_and_counted(tokenizer):
    """Prompts of 21, 20 and 29 tokens in a window of 21: only the second leaves room."""
    long = [HI, Example((("user", "H"),), "Yo"), Example((("user", "0123456789"),), "Yo")]
    shard = made(tokenizer, long, max_length=21)
    assert (len(shard), shard.dropped) == (1, 2)
    ids, start = shard.example(0)
    assert (len(ids), start) == (21, 20)
    assert tokenizer.decode(ids[start:]) == "Y"


@pytest.mark.parametrize(("max_length", "kept"), [(22, "Y"), (23, "Yo"), (24, "Yo<|end|>"), (25, "Yo<|end|>")])
def test_a_long_completion_is_cut_without_an_end_token(tokenizer, max_length, kept):
    shard = made(tokenizer, [HI], max_length=max_length)
    ids, start = shard.example(0)
    assert tokenizer.decode(ids[start:]) == kept
    assert (shard.dropped, shard.cut) == (0, int(max_length < 24))


@pytest.mark.parametrize(("template", "begins"), [("tokenizer", 2), ("alpaca", 1), ("chatml", 1), ("none", 1)])
def test_the_begin_token_stands_there_once(tokenizer, template, begins):
    """The tokenizer's own template opens both turns with it; the others write it at the beginning alone."""
    ids, _ = made(tokenizer, [HI], max_length=500, template=template).example(0)
    assert ids[0] == BEGIN
    assert ids[1] != BEGIN
    assert (ids == BEGIN).sum() == begins


def test_the_begin_token_is_added_where_the_template_leaves_it_out(tokenizer, tmp_path):
    file = tmp_path / "bare.jinja"
    file.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    ids, start = made(tokenizer, [HI], template=str(file)).example(0)
    assert tokenizer.decode(ids) == "<|begin|>HiYo<|end|>"
    assert start == 3


def test_a_system_prompt_comes_first(tokenizer):
    """<|begin|> + "system\\n" + "Be" + <|end|> + "\\n" are 1 + 7 + 2 + 1 + 1 = 12 tokens more."""
    ids, start = made(tokenizer, [HI], system_prompt="Be").example(0)
    assert start == 33
    assert tokenizer.decode(ids[:12]) == "<|begin|>system\nBe<|end|>\n"


def test_rows_lie_end_to_end(tokenizer):
    """ "é" is two bytes, so two tokens. The middle row is dropped."""
    rows = [HI, Example((("user", "x" * 90),), "no"), Example((("user", ""),), "é")]
    shard = made(tokenizer, rows, max_length=60)
    assert (len(shard), shard.dropped) == (2, 1)
    assert shard.lengths.tolist() == [24, 22]
    assert shard.offsets.tolist() == [0, 24, 46]
    assert shard.starts.tolist() == [21, 19]
    assert tokenizer.decode(shard.example(1)[0][19:]) == "é<|end|>"


REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


def test_refused_rows_are_counted_and_the_first_ones_named(tokenizer, tmp_path, monkeypatch):
    """Rows 1, 2, 4, 5 and 6 of seven, in chunks of three; three are named."""
    monkeypatch.setattr("fedllm_app.data.shards._CHUNK", 3)
    file = tmp_path / "own.jinja"
    file.write_text(REFUSES + tokenizer.chat_template)
    rows = [HI if n in (0, 3) else Example((("system", "s"), *HI.prompt), "Yo") for n in range(7)]
    shard = made(tokenizer, rows, template=str(file))
    assert (len(shard), shard.dropped, shard.refused.count) == (2, 0, 5)
    assert [place for place, _ in shard.refused.first] == [1, 2, 4]
    assert all("no system" in reason for _, reason in shard.refused.first)


def test_rows_of_another_shard_have_their_places(tokenizer, tmp_path):
    """Thumbs up and down alternate, and the rows 4 and 5 are refused: of both shards together, by those numbers."""
    file = tmp_path / "own.jinja"
    file.write_text(REFUSES + tokenizer.chat_template)
    bad = Example((("system", "s"), *HI.prompt), "Yo")
    rows = [bad if place in (4, 5) else HI for place in range(8)]
    up, down = (
        made(tokenizer, [row if place % 2 == thumb else None for place, row in enumerate(rows)], template=str(file))
        for thumb in (0, 1)
    )
    assert (len(up), len(down)) == (3, 3)
    assert [place for place, _ in (down.refused + up.refused).first] == [4, 5]
    assert (up.refused + down.refused).count == 2


def test_pairs(tokenizer):
    """A prompt of 21 tokens. In a window of 23, "Yo" and "You" are the same, "Yo" and "yo" are not; of that pair the
    second is whole when its completion "y" + <|end|> is."""
    answers = [("Yo", "You"), ("Yo", "yo"), ("Yoyo", "y")]
    shard = made_of_pairs(tokenizer, answers, max_length=23)
    assert (len(shard), shard.equal, shard.cut, shard.dropped) == (2, 1, 2, 0)
    sides = [
        [tokenizer.decode(ids[start:]) for ids, start in map(part.example, range(2))]
        for part in (shard.chosen, shard.rejected)
    ]
    assert sides == [["Yo", "Yo"], ["yo", "y<|end|>"]]
    assert shard.chosen.starts.tolist() == shard.rejected.starts.tolist() == [21, 21]
    whole = made_of_pairs(tokenizer, answers)
    assert (len(whole), whole.equal, whole.cut) == (3, 0, 0)
    assert made_of_pairs(tokenizer, answers, max_length=21).dropped == 3


def test_a_pair_of_which_one_answer_cannot_be_written_is_refused_as_a_whole(tokenizer):
    shard = made_of_pairs(tokenizer, [("Yo", "<|end|>"), ("Yo", "no")])
    assert (len(shard.chosen), len(shard.rejected)) == (1, 1)
    assert shard.refused == Refusals(1, ((0, "its answer is nothing but the token that ends a turn"),))


def test_pairs_are_cached_in_one_file(app_home, tokenizer):
    shard = made_of_pairs(tokenizer, [("Yo", "You"), ("Yo", "yo"), ("é", "<|end|>")], max_length=23)
    for found in (cached(["pairs"], lambda: shard), cached(["pairs"], lambda: pytest.fail("made again"))):
        assert (found.equal, found.refused) == (1, shard.refused)
        assert same(found.chosen, shard.chosen)
        assert same(found.rejected, shard.rejected)
    assert len(list((app_home / "shards").iterdir())) == 1


def labels(tokenizer, row) -> str:
    """The learnt tokens as text, a dot for each of the others."""
    return "".join("." if label == -100 else tokenizer.decode([label]) for label in row_labels(*row))


def test_the_last_turn_is_learnt_unless_all_are(tokenizer):
    """An opening, <|begin|> + "user\\n", is 6 tokens, <|begin|> + "assistant\\n" 11; an end with its line break 2.

    Before "bc": 6 + 1 + 2 + 11 = 20; before "ef": another "\\n" + 6 + 1 + 2 + 11 = 21.
    """
    last, every = (made(tokenizer, [HI, TALK, HI], learn_turns=which) for which in ("last", "all"))
    assert np.array_equal(last.tokens, every.tokens)
    assert labels(tokenizer, last.row(1)) == "." * 44 + "ef<|end|>"
    assert labels(tokenizer, every.row(1)) == "." * 20 + "bc<|end|>" + "." * 21 + "ef<|end|>"
    for shard in (last, every):
        assert len(shard.row(0)) == len(shard.row(2)) == 2
        assert [start for _, start in map(shard.example, range(3))] == [21, 44, 21]


@pytest.mark.parametrize(
    ("max_length", "learnt", "cut"),
    [(46, ["bc<|end|>", "ef"], 1), (44, ["bc<|end|>"], 1), (22, ["bc"], 1), (20, [], 0)],
)
def test_of_a_long_conversation_the_turns_that_fit_are_learnt(tokenizer, max_length, learnt, cut):
    """The completion is then the last answer that begins within the window, after 20 or 44 tokens; of none, the row is
    dropped.
    """
    shard = made(tokenizer, [TALK], max_length=max_length, learn_turns="all")
    assert (len(shard), shard.cut, shard.dropped) == (int(bool(learnt)), cut, int(not learnt))
    if learnt:
        assert labels(tokenizer, shard.row(0)).replace(".", " ").split() == learnt
        assert shard.example(0)[1] == (44 if max_length > 44 else 20)


def test_learnt_spans_and_reasons_are_cached_and_joined(app_home, tokenizer, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(REFUSES + tokenizer.chat_template)
    rows = [TALK, Example((("system", "s"), *HI.prompt), "Yo"), HI, TALK, Example(HI.prompt, "x" * 90)]
    shard = made(tokenizer, rows, template=str(file), learn_turns="all")
    assert (shard.cut, shard.refused.count, shard.learnt.tolist()) == (1, 1, [[0, 20, 23], [2, 20, 23]])
    for found in (cached(["rows"], lambda: shard), cached(["rows"], lambda: pytest.fail("made again"))):
        assert same(found, shard)
    both = join([made(tokenizer, [HI], learn_turns="all"), shard, shard])
    assert (both.cut, both.refused, len(both)) == (2, Refusals(2), 9)
    for place, row in enumerate([HI, *[TALK, HI, TALK, None] * 2]):
        if row:
            (alone,) = (made(tokenizer, [row], learn_turns="all").row(0),)
            assert labels(tokenizer, both.row(place)) == labels(tokenizer, alone)


def test_no_rows(tokenizer):
    shard = made(tokenizer, [])
    assert (len(shard), shard.dropped, len(shard.tokens)) == (0, 0, 0)


def test_join(tokenizer):
    one = made(tokenizer, [HI, Example((("user", "x" * 90),), "no")], max_length=60)
    two = made(tokenizer, [Example((("user", "Bye"),), "z"), HI])
    both = join([one, two])
    assert (len(both), both.dropped) == (3, 1)
    for index, (shard, at) in enumerate([(one, 0), (two, 0), (two, 1)]):
        np.testing.assert_array_equal(both.example(index)[0], shard.example(at)[0])
        assert both.example(index)[1] == shard.example(at)[1]


def test_an_epoch_covers_the_shard_without_repetition():
    for epoch in range(4):
        assert sorted(walk(7, client=1, seed=3, position=7 * epoch, count=7)) == list(range(7))


def test_a_walk_over_epochs_covers_each_of_them():
    """23 examples of a shard of 10: two whole epochs and three different ones of the third."""
    met = walk(10, client=0, seed=0, position=0, count=23)
    assert len(met) == 23
    assert sorted(met[:10]) == sorted(met[10:20]) == list(range(10))
    assert len(set(met[20:])) == 3


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 10])
def test_a_walk_goes_on_where_it_stopped(cut):
    """However 10 examples of a shard of 7 are asked for, they are the same."""
    whole = walk(7, client=2, seed=5, position=3, count=10)
    parts = [walk(7, 2, 5, 3, cut)] if cut else []
    parts += [walk(7, 2, 5, 3 + cut, 10 - cut)] if cut < 10 else []
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_client_seed_and_epoch_each_give_another_order():
    """Of 50! orders, no two are alike."""
    orders = [
        tuple(walk(50, client=client, seed=seed, position=50 * epoch, count=50))
        for client, seed, epoch in itertools.product(range(3), range(3), range(3))
    ]
    assert len(set(orders)) == 27


def test_an_empty_shard_cannot_be_walked():
    with pytest.raises(EmptyShard):
        walk(0, client=0, seed=0, position=0, count=1)


def test_batches_group_by_length_and_meet_every_example_once():
    """Lengths 9, 1, 5, 3, 7, 2 of examples 0 to 5: {1, 5} are shortest, then {3, 2}, then {4, 0}."""
    lengths = np.array([9, 1, 5, 3, 7, 2])
    cut = list(batches(np.array([5, 4, 3, 2, 1, 0]), lengths, 2, [1]))
    assert sorted(sorted(batch.tolist()) for batch in cut) == [[0, 4], [1, 5], [2, 3]]


def test_an_example_that_is_met_twice_stays_twice():
    """A round longer than the shard."""
    cut = np.concatenate(list(batches(np.array([0, 1, 1, 0]), np.array([4, 2]), 2, [1])))
    assert sorted(cut) == [0, 0, 1, 1]


def test_the_order_of_batches_is_seeded():
    indices, lengths = np.arange(60), np.arange(60)

    def order(seed):
        return tuple(np.concatenate(list(batches(indices, lengths, 2, seed))))

    assert order([1, 2]) == order([1, 2])
    assert len({order([1, 2]), order([1, 3]), order([2, 2]), tuple(indices)}) == 4


def test_a_shard_is_made_once_for_each_key(app_home, tokenizer):
    shard = made(tokenizer, [HI, HI])
    makes = []

    def make():
        makes.append(None)
        return shard

    first, second = cached(["rows", 128], make), cached(["rows", 128], make)
    assert len(makes) == 1
    for name in ("tokens", "offsets", "starts"):
        np.testing.assert_array_equal(getattr(second, name), getattr(shard, name))
        assert getattr(second, name).dtype == getattr(first, name).dtype
    assert second.dropped == shard.dropped
    for other in (["rows", 64], ["rows", "128"], ["other", 128], ["rows"]):
        cached(other, make)
    assert len(makes) == 5
    assert len(list((app_home / "shards").iterdir())) == 5


def test_a_cached_shard_stays_on_disk(app_home, tokenizer):
    """Its tokens are a view of the file, read-only, whether it was just made or found."""
    rows = [HI, Example((("user", "x" * 90),), "no"), Example((("user", "Bye"),), "é")]
    made_now = made(tokenizer, rows, max_length=60)
    for shard in (cached(["rows"], lambda: made_now), cached(["rows"], lambda: pytest.fail("made again"))):
        base = shard.tokens
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not shard.tokens.flags.writeable
        assert (len(shard), shard.dropped, shard.total) == (2, 1, made_now.total)
        for index in range(2):
            np.testing.assert_array_equal(shard.example(index)[0], made_now.example(index)[0])
            assert shard.example(index)[1] == made_now.example(index)[1]


def test_an_empty_shard_is_cached(app_home, tokenizer):
    """A client that keeps nothing back has held-out rows of length 0."""
    for _ in range(2):
        shard = cached(["none"], lambda: made(tokenizer, []))
        assert (len(shard), shard.dropped, shard.total, shard.offsets.tolist()) == (0, 0, 0, [0])


def test_rows_beyond_one_chunk_keep_their_order(tokenizer, monkeypatch):
    """Seven rows in chunks of three; the fifth is dropped."""
    monkeypatch.setattr("fedllm_app.data.shards._CHUNK", 3)
    rows = [Example((("user", "x" * (60 if n == 4 else n)),), str(n)) for n in range(7)]
    shard = made(tokenizer, rows, max_length=60)
    assert shard.dropped == 1
    endings = [tokenizer.decode(ids[start:]) for ids, start in map(shard.example, range(6))]
    assert endings == [f"{n}<|end|>" for n in (0, 1, 2, 3, 5, 6)]


def test_nothing_is_kept_if_making_fails(app_home):
    def fail():
        raise EmptyShard("no rows")

    with pytest.raises(EmptyShard):
        cached(["rows"], fail)
    assert not list(app_home.rglob("*.np*"))
