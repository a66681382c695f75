"""A client's rows as tokens: those that cannot be written or teach nothing are counted, without what they say."""

import json

import pytest

from fedllm_app.data.shards import EmptyShard
from fedllm_app.data.sources import TooManyBadRows

REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}"
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


@pytest.fixture
def client_of(make_client, tmp_path):
    """A client that owns these rows, messages or columns each, or shares them with others, and keeps four back."""

    def make(rows, clients=1, **overrides):
        data, template = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.jsonl", tmp_path / "own.jinja"
        data.write_text("".join(json.dumps(row if isinstance(row, dict) else {"messages": row}) + "\n" for row in rows))
        template.write_text(REFUSES)
        given = {"data__name": str(data), "data__template": str(template), "clients__number": clients} | overrides
        return make_client(clients=clients, **given)

    return make


def messages(*contents, system=None):
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, contents, strict=False)]
    return [{"role": "system", "content": system}, *turns] if system else turns


GOOD, REFUSED = messages("q", "a"), messages("q", "a", system="my secret")


def test_a_row_that_the_template_refuses_is_a_bad_row(client_of):
    """Row 151 of 200: half a percent. It is named, with the template's reason and nothing of the row."""
    holding = client_of([GOOD] * 150 + [REFUSED] + [GOOD] * 49).describe_rows(0)
    assert (holding.examples + holding.held_out, holding.refused, holding.dropped, holding.cut) == (199, 1, 0, 0)
    assert holding.first_refused.startswith("row 151: ")
    assert holding.first_refused.endswith("of system, user: no system message, please")
    assert "secret" not in holding.first_refused


def test_its_number_is_that_of_the_row_in_the_set(client_of):
    """Three clients have three or four of its rows each; the refused one, whoever has it, is row 3 of the ten."""
    client = client_of([GOOD] * 2 + [REFUSED] + [GOOD] * 7, clients=3, data__max_bad_share=0.1)
    holdings = [client.describe_rows(number) for number in range(3)]
    assert [holding.first_refused[:7] for holding in holdings if holding.refused] == ["row 3: "]


def test_too_many_refused_rows(client_of):
    """Three of 200 are more than a percent of the set, two are not."""
    assert client_of([REFUSED] * 2 + [GOOD] * 198).describe_rows(0).refused == 2
    with pytest.raises(TooManyBadRows, match=r"3 of the 200 rows .* data.max-bad-share = 0.01: .* first is row \d: "):
        client_of([REFUSED] * 3 + [GOOD] * 197).describe_rows(0)


def test_unreadable_rows_and_refused_ones_count_together(client_of):
    """One and one of 100, with a share of a percent."""
    with pytest.raises(TooManyBadRows, match="2 of the 100 rows"):
        client_of([REFUSED, messages("q")] + [GOOD] * 98).describe_rows(0)


def test_a_system_prompt_that_the_template_refuses(client_of):
    with pytest.raises(
        EmptyShard, match=r"none of its 6 training rows can be used: 6 are refused .* row \d+: .*no system"
    ):
        client_of([GOOD] * 10, data__system_prompt="Be kind.").describe_rows(0)


def test_cut_completions_are_counted(client_of):
    """A prompt of 20 tokens and a window of 30: answers of ten letters lose their end, of nine they keep it."""
    rows = [messages("q", "a" * (9 + number % 2)) for number in range(20)]
    holding = client_of(rows, train__max_length=30).describe_rows(0)
    assert (holding.examples, holding.held_out, holding.cut, holding.dropped) == (16, 4, 10, 0)
    assert 6 <= holding.cut_training <= 10


def test_pairs_that_are_equal_when_cut_are_left_out(client_of):
    """A prompt of 20 tokens and a window of 22: "yes" and "yellow" are both "ye"."""
    rows = [{"prompt": "q", "chosen": "yes", "rejected": "yellow" if number % 2 else "no"} for number in range(20)]
    client = client_of(rows, train__max_length=22, train__task="dpo")
    holding = client.describe_rows(0)
    assert (holding.examples + holding.held_out, holding.equal, holding.cut) == (10, 10, 10)
    with pytest.raises(EmptyShard, match="16 are pairs whose answers are equal within train.max-length = 22"):
        client_of(rows[1::2] * 2, train__max_length=22, train__task="dpo").describe_rows(0)


def test_what_changes_tokens_changes_the_shard(client_of, make_client):
    """Special tokens in text, and the turns that are learnt, are parts of the key under which shards are kept."""
    client = client_of([messages("q<|end|>", "a", "r", "b")] * 12)
    same = {"data__name": client.store.selection.name, "data__template": client.store.tokenization.template}
    plain = client.shards(0).train
    meant = make_client(clients=1, data__special_tokens_in_text=True, **same).shards(0).train
    assert plain.lengths[0] == meant.lengths[0] + len("<|end|>") - 1
    every = make_client(clients=1, data__learn_turns="all", **same).shards(0).train
    assert (len(plain.row(0)), len(every.row(0))) == (2, 3)


def test_all_turns_are_trained_on(client_of, assign, monkeypatch):
    """The labels that reach the trainer: a<|end|> and b<|end|>."""
    from fedllm_app.training import sft

    seen = []
    dataset = sft.sft_dataset

    def look(rows):
        made = dataset(rows)
        seen.extend([label for label in row if label != -100] for row in made["labels"])
        return made

    monkeypatch.setattr(sft, "sft_dataset", look)
    client = client_of([messages("q", "a", "r", "b")] * 12, data__learn_turns="all")
    adapter = client.model.adapter.read()
    client.train(assign(client, clients=1), {"adapter": adapter}, lambda *_: None)
    end = client.model.tokenizer.eos_token_id
    letters = [client.model.tokenizer.convert_tokens_to_ids(letter) for letter in "ab"]
    assert [letters[0], end, letters[1], end] in seen
