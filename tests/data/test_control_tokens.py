"""Control tokens apart from text that looks like them, with tokenizers of several kinds."""

import pytest
from toy_tokenizers import TEXT, byte_level, spaced, unigram, word_piece

from fedllm_app.data.control_tokens import ControlTokens, Text, TokenizerError
from fedllm_app.data.windows import document_windows

CONTROLS = ["<s>", "</s>", "[INST]"]
TOKENIZERS = {
    "bytes": lambda: byte_level([], end="<end>"),
    "merged bytes": lambda: byte_level([], end="<end>", merges=120),
    "spaces as of Llama 2": lambda: spaced([], end="<end>"),
    "spaces as of later conversions": lambda: spaced([], end="<end>", legacy=False),
}
WRITTEN = "  I said </s>5 EUR<s> [INST]</s> and </ s> <unk\nhello <s"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_is_tokenized_as_if_there_were_no_such_token(kind):
    """The oracle is the same tokenizer before it is given the control tokens: ids below are its ids."""
    from tokenizers import AddedToken

    tokenizer = TOKENIZERS[kind]()
    expected = tokenizer(WRITTEN, add_special_tokens=False)["input_ids"]
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token) for token in CONTROLS]})
    assert tokenizer(WRITTEN, add_special_tokens=False)["input_ids"] != expected
    controls = ControlTokens(tokenizer)
    assert controls.encode([controls.as_text(WRITTEN)])[0].ids == expected


@pytest.mark.parametrize(
    "tokenizer",
    [unigram(["<s>", "</s>"]), word_piece(["[CLS]", "[SEP]"]), spaced(["<s>", "</s>"])],
    ids=["Unigram", "WordPiece", "BPE"],
)
def test_control_tokens_that_the_vocabulary_holds_are_not_found_by_the_model_either(tokenizer):
    """Unigram and WordPiece know them as pieces; <unk> and [UNK] stand for unknown letters."""
    controls = ControlTokens(tokenizer)
    first, second = list(controls.ids)[1:]
    ids = controls.encode([controls.as_text(f"a {first}b{second} c {second}")])[0].ids
    assert not {controls.ids[first], controls.ids[second]} & set(ids)


def test_letters_that_a_normalizer_turns_into_a_control_token():
    """NFKC makes <s> of its full-width letters, and a Unigram model has it as a piece."""
    tokenizer = unigram(["<s>", "</s>"])
    wide = "one ＜s＞ two"
    control = tokenizer.convert_tokens_to_ids("<s>")
    assert control in tokenizer(wide, add_special_tokens=False)["input_ids"]
    controls = ControlTokens(tokenizer)
    assert control not in controls.encode([controls.as_text(wide)])[0].ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_a_template_writes_stays_control(kind):
    """Around contents that are text, respelled control tokens have their ids, with the flags that they have."""
    from tokenizers import AddedToken

    tokenizer = TOKENIZERS[kind]()
    tokens = [AddedToken("<s>", rstrip=True), AddedToken("</s>", lstrip=True), AddedToken("[INST]")]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    controls = ControlTokens(tokenizer)
    plain = "<s>  [INST] I said hello  </s> \n<s>and asked again"
    assert controls.encode([controls.respell(plain)])[0].ids == tokenizer(plain, add_special_tokens=False)["input_ids"]
    mixed = controls.respell(f"<s>{controls.hide('a </s> b')}</s>")
    ids = controls.encode([mixed])[0].ids
    assert [ids.count(controls.ids[token]) for token in ("<s>", "</s>", "[INST]")] == [1, 1, 0]
    assert (ids[0], ids[-1]) == (controls.ids["<s>"], controls.ids["</s>"])


def test_plain_and_respelled_texts_keep_their_order_and_offsets():
    controls = ControlTokens(byte_level(["<s>", "</s>"]))
    texts = [Text("ab"), controls.as_text("<s>"), Text("c")]
    encoded = controls.encode(texts, offsets=True)
    assert [controls.tokenizer.decode(tokens.ids) for tokens in encoded] == ["ab", "<s>", "c"]
    assert [tokens.offsets for tokens in encoded] == [[(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 3)], [(0, 1)]]


@pytest.mark.parametrize(
    ("tokenizer", "begin"),
    [
        (byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>"), ["<s>"]),
        (byte_level(["<s>", "</s>"], single="<s> $A </s>", begin="<s>"), ["<s>"]),
        (byte_level(["<s>", "</s>"], single="$A </s>"), []),
        (byte_level(["<s>", "</s>"], begin="<s>"), []),
        (byte_level(["[gMASK]", "<sop>", "</s>"], single="[gMASK] <sop> $A"), ["[gMASK]", "<sop>"]),
        (spaced(["<s>", "</s>"], single="<s> $A", begin="<s>"), ["<s>"]),
        (word_piece(["[CLS]", "[SEP]"]), ["[CLS]"]),
    ],
    ids=["begin", "begin and end", "end alone", "a begin token that is not added", "two tokens", "Llama 2", "BERT"],
)
def test_what_a_tokenizer_puts_before_a_text(tokenizer, begin):
    assert tokenizer.convert_ids_to_tokens(ControlTokens(tokenizer).begin) == begin


def test_added_tokens_that_look_like_delimiters():
    """As DeepSeek's `<｜User｜>`, which is not marked as special; not what closes a part of an answer, nor a word."""
    tokenizer = byte_level(["</s>"], ["<｜User｜>", "[TURN]", "</think>", "hello", "\n\n"])
    found = ControlTokens(tokenizer).delimiters("<｜User｜>hello\n\n[TURN]</think></s>")
    assert found == ["<｜User｜>", "[TURN]", "</s>"]
    assert set(ControlTokens(tokenizer, ["<｜User｜>"]).ids) == {"</s>", "<｜User｜>"}


class Slow:
    """A tokenizer without a fast implementation, as far as it is asked."""

    is_fast = False

    def __init__(self):
        self.tokenizer = byte_level(["<s>", "</s>"])
        self.added_tokens_decoder = self.tokenizer.added_tokens_decoder

    def __call__(self, *arguments, **options):
        return self.tokenizer(*arguments, **options)


def test_a_tokenizer_that_cannot_do_it_says_so():
    controls = ControlTokens(Slow())
    assert controls.encode([controls.as_text("plain")])[0].ids == controls.tokenizer("plain")["input_ids"]
    with pytest.raises(TokenizerError, match="Slow cannot keep the spelling .* data.special-tokens-in-text = true"):
        controls.encode([controls.as_text("<s>")])
    with pytest.raises(TokenizerError, match="data.learn-turns must be 'last'"):
        controls.encode([Text("plain")], offsets=True)


@pytest.mark.parametrize("meant", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_control_tokens_in_documents_are_text_unless_they_are_meant(meant, packing):
    """</s>, four letters: as a token, the document would be two."""
    tokenizer = byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>")
    shard = document_windows(["a</s>b"], tokenizer, 100, packing, special_tokens_in_text=meant)
    assert tokenizer.decode(shard.tokens) == "<s>a</s>b</s>"
    assert (len(shard.tokens), (shard.tokens == 1).sum()) == ((5, 2) if meant else (8, 1))


def test_a_long_text_without_control_tokens_is_tokenized_as_it_is():
    controls = ControlTokens(byte_level(["<tool>"], end="<tool>", merges=50))
    assert controls.as_text(TEXT) == Text(TEXT)
