"""Documents as windows: no token is lost, none is predicted twice."""

import numpy as np
import pytest
from conftest import byte_tokenizer

from fedllm_app.data import windows
from fedllm_app.data.windows import NoEndToken, document_windows

BEGIN, END = 0, 1


@pytest.fixture
def tokenizer():
    """One token a byte; it puts <|begin|> before a text."""
    return byte_tokenizer()


def letters(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(list(text))


def pieces(shard):
    return [shard.example(index)[0].tolist() for index in range(len(shard))]


def test_a_window_is_of_one_document(tokenizer):
    """Documents of 6 + 2 and 10 + 2 tokens in windows of 8: one, and two that share a token, the last of 12 - 7 = 5."""
    shard = document_windows(["abcdef", "abcdefghij"], tokenizer, 8, packing=False)
    first = [BEGIN, *letters(tokenizer, "abcdef"), END]
    second = [BEGIN, *letters(tokenizer, "abcdefghij"), END]
    assert pieces(shard) == [first, second[:8], second[7:]]
    assert shard.starts.tolist() == [1, 1, 1]
    assert shard.dropped == 0


def test_packed_windows_are_full(tokenizer):
    """Both documents laid end to end are 20 tokens: windows begin at 0, 7 and 14, the last of them has 6."""
    shard = document_windows(["abcdef", "abcdefghij"], tokenizer, 8, packing=True)
    stream = [BEGIN, *letters(tokenizer, "abcdef"), END, BEGIN, *letters(tokenizer, "abcdefghij"), END]
    assert pieces(shard) == [stream[:8], stream[7:15], stream[14:]]
    assert shard.lengths.tolist() == [8, 8, 6]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("max_length", [8, 9, 16, 100])
def test_every_token_is_predicted_once(tokenizer, packing, max_length):
    """What the windows predict, laid end to end, is each document without its first token; packed, all but one."""
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh "), size)) + "." for size in (1, 5, 6, 7, 13, 14, 15, 40)]
    documents = [[BEGIN, *tokenizer(text, add_special_tokens=False)["input_ids"], END] for text in texts]
    predicted = [
        token for window in pieces(document_windows(texts, tokenizer, max_length, packing)) for token in window[1:]
    ]
    whole = [sum(documents, [])] if packing else documents
    assert predicted == [token for document in whole for token in document[1:]]


def test_a_begin_token_that_the_tokenizer_does_not_put_is_left_out(tokenizer):
    """Many tokenizers know a begin token and put none before a text; then the end token alone parts documents."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    shard = document_windows(["ab", "cd"], tokenizer, 8, packing=True)
    assert pieces(shard) == [[*letters(tokenizer, "ab"), END, *letters(tokenizer, "cd"), END]]


@pytest.mark.parametrize("packing", [True, False])
def test_a_document_without_tokens_is_counted(tokenizer, packing):
    """A tokenizer that removes zero-width spaces leaves nothing of a document of them: its end token is not learnt."""
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    shard = document_windows(["ab", "\u200b\u200b"], tokenizer, 8, packing)
    assert pieces(shard) == [[BEGIN, *letters(tokenizer, "ab"), END]]
    assert shard.dropped == 1


def test_no_document_no_window(tokenizer):
    assert len(document_windows([], tokenizer, 8, packing=True)) == 0


def test_documents_are_tokenized_in_pieces_of_bounded_size(tokenizer, monkeypatch):
    """Of ten characters and more at a time; the windows are the same."""
    texts = ["abc", "abcdef", "a" * 30, "b", "c"]
    expected = document_windows(texts, tokenizer, 8, packing=True)
    monkeypatch.setattr(windows, "_CHUNK", 10)
    assert [len(chunk) for chunk in windows._chunks(texts)] == [3, 2]
    assert pieces(document_windows(texts, tokenizer, 8, packing=True)) == pieces(expected)


def test_without_an_end_token_no_document_ends(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(NoEndToken, match="end token"):
        document_windows(["ab"], tokenizer, 8, packing=True)
