"""Fixtures for all tests: a tiny model, a home of its own, a small run configuration, a grid that answers by itself."""

import io
import signal
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import peft  # noqa: F401  before anything leaves bitsandbytes out: the quantization tests share this process
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from places import ROOT

pytest_plugins = ["training_fixtures", "round_loop", "saved_runs"]

# Commands respect signals that are ignored where they are started, as nohup does. A shell without job control starts
# its background jobs, and so perhaps these tests, with Ctrl-C ignored.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: they take longest, so that processes that share the tests end at about the same time."""
    items.sort(key=lambda item: "whole_runs" not in item.path.parts)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def app_home(tmp_path_factory, monkeypatch) -> Path:
    """FEDLLM_HOME of this test: nothing is read from or left in the user's."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FEDLLM_HOME", str(path))
    return path


@pytest.fixture
def flower_home(tmp_path, monkeypatch) -> Path:
    """FLWR_HOME of this test: a user's connections are neither used nor changed."""
    path = tmp_path / "flwr"
    path.mkdir()
    monkeypatch.setenv("FLWR_HOME", str(path))
    return path


@pytest.fixture
def console():
    """A console that keeps what is printed and shows nothing."""
    from rich.console import Console

    return Console(record=True, width=160, file=io.StringIO())


@pytest.fixture(autouse=True)
def server_task(monkeypatch):
    """A Message can be made only inside a task; in a run, Flower sets these when it starts the ServerApp."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: tiny matrices gain nothing from more, and sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A directory with a random Llama of 37,792 parameters, its head not tied, and a tokenizer of single bytes.

    Embedding and head are 2 · 300 · 32; each of 2 layers has 32 · (32 + 16 + 16 + 32) in attention, 3 · 32 · 64 in its
    MLP and 2 · 32 in norms; the last norm 32: 19,200 + 2 (3,072 + 6,144 + 64) + 32.
    """
    return save_llama(tmp_path_factory.mktemp("tiny-model"), 32, 64, 0.2)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory) -> Path:
    """Like `tiny_model`, with rows of weights that are whole blocks of 64: on a CPU, bitsandbytes needs that for
    nf4."""
    return save_llama(tmp_path_factory.mktemp("wide-model"), 64, 128, 0.1)


def save_llama(directory: Path, hidden: int, intermediate: int, spread: float) -> Path:
    """A random Llama of two layers and its tokenizer; `spread` wide enough for logits that differ by more than
    rounding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=spread,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def byte_tokenizer():
    """One token a byte, <|begin|> put before every text as Llama's tokenizers do, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin|>", "<|end|>", "<|pad|>"]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture
def run_config(tiny_model) -> dict[str, bool | int | float | str]:
    """The flat defaults of pyproject.toml, overridden for two short rounds of the tiny model."""
    from fedllm_app.config.parse import default_run_config

    return default_run_config(ROOT) | {
        "model.name": str(tiny_model),
        "model.dtype": "float32",
        "run.threads": 1,
        "data.examples-per-client": 16,
        "data.held-out-examples": 4,
        "evaluate.examples": 4,
        "train.rounds": 2,
        "train.local-steps": 2,
        "train.batch-size": 2,
        "train.max-length": 128,
    }


class FakeGrid:
    """A grid whose nodes answer at once, and whose replies arrive in any order, some at each look.

    Parameters
    ----------
    answer : Callable[[Message], Message | None]
        The reply to a message; None for a node that never answers.
    looks : list[list[int]]
        The node ids seen at each call of `get_node_ids`; the last list stays.
    arrival : Callable[[Message], Hashable]
        Replies arrive in the order of this key of the message that they answer.
    at_once : int
        Replies handed out at one look.
    unreachable : Iterable[int]
        Nodes to which nothing can be sent.
    """

    def __init__(
        self,
        answer: Callable[[Message], Message | None],
        looks: list[list[int]] | None = None,
        arrival: Callable[[Message], Hashable] = lambda message: message.metadata.message_id,
        at_once: int = 1,
        unreachable: Iterable[int] = (),
    ) -> None:
        self.answer, self.arrival, self.at_once = answer, arrival, at_once
        self.looks, self.unreachable = list(looks or [[]]), set(unreachable)
        self.sent: list[Message] = []
        self.pulls = 0
        self._waiting: dict[str, tuple[Hashable, Message]] = {}

    def get_node_ids(self) -> list[int]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        ids: list[str | None] = []
        for message in messages:
            if message.metadata.dst_node_id in self.unreachable:
                ids.append(None)
                continue
            message.metadata._message_id = f"message-{len(self.sent):04d}"
            self.sent.append(message)
            reply = self.answer(message)
            if reply is not None:
                self._waiting[message.metadata.message_id] = (self.arrival(message), reply)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls += 1
        there = sorted((self._waiting[name][0], name) for name in message_ids if name in self._waiting)
        return [self._waiting.pop(name)[1] for _, name in there[: self.at_once]]


@pytest.fixture
def make_grid(monkeypatch) -> type[FakeGrid]:
    """`FakeGrid`, looked at without pauses."""
    monkeypatch.setattr("fedllm_app.federation.transport._PULL_INTERVAL", 0.001)
    return FakeGrid
