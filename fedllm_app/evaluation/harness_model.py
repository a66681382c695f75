"""Our loaded model behind the interface of lm-evaluation-harness (`LM`), which this module imports."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from fedllm_app.evaluation.asking import Asker, Decoding
from fedllm_app.evaluation.prompts import PlainPrompts, TemplatePrompts
from fedllm_app.evaluation.suite import Question

_NEW_TOKENS = 256  # the harness's own default


class AskedModel(LM):
    """Loglikelihood, rolling and generate_until, batched by length, with common beginnings read once.

    Parameters
    ----------
    asker : Asker
        The model.
    prompts : PlainPrompts | TemplatePrompts
        With a template, a task's text becomes the user's turn (`apply_chat_template`); else it is read as it is.
    """

    def __init__(self, asker: Asker, prompts: PlainPrompts | TemplatePrompts) -> None:
        super().__init__()
        self.asker, self.prompts = asker, prompts

    @cached_property
    def tokenizer_name(self) -> str:
        """Part of the harness's cache keys."""
        return self.asker.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, _chat_template: Any = False) -> str:
        """What the harness records of the template."""
        return self.prompts.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text."""
        turns = tuple((turn["role"], turn["content"]) for turn in chat_history)
        return self.prompts.text(Question(turns[-1][1], turns=turns[:-1]))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of (context, continuation): requests with the same context are read together."""
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.args[0], []).append(place)
        asked = [
            _pair(self.asker, self.prompts, context, [requests[p].args[1] for p in those])
            for context, those in places.items()
        ]
        results: list = [None] * len(requests)
        for those, scores in zip(places.values(), self.asker.log_likelihoods(asked), strict=True):
            for place, score in zip(those, scores, strict=True):
                results[place] = (score.log_likelihood, score.greedy)
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that each see as much as the model reads."""
        begin = _begin(self.asker)
        asked, owners = [], []
        for number, request in enumerate(requests):
            ids = self.asker.tokenizer(request.args[0], add_special_tokens=False)["input_ids"]
            windows = get_rolling_token_windows(ids, begin, self.asker.context or max(2, len(ids) + 1), context_len=1)
            for context, continuation in map(make_disjoint_window, windows):
                asked.append((context, [continuation]))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (score,) in zip(owners, self.asker.log_likelihoods(asked), strict=True):
            totals[owner] += score.log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers (or drawn, where a task sets a temperature), up to the texts that a task names."""
        answers: list[str] = [""] * len(requests)
        groups: dict[tuple, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(_decoding_of(request.args[1]), []).append(place)
        for (stops, new_tokens, temperature), places in groups.items():
            ids = [_context(self.asker, self.prompts, requests[place].args[0]) for place in places]

            def ends(so_far: list[int], stops: tuple = stops) -> bool:
                return any(stop in self.prompts.read(so_far[-24:]) for stop in stops)

            decoding = Decoding(new_tokens, self.prompts.stops(), ends, temperature)
            for place, tokens in zip(places, self.asker.generate(ids, decoding), strict=True):
                text = self.prompts.read(tokens)
                found = [text.index(stop) for stop in stops if stop in text]
                answers[place] = text[: min(found)] if found else text
        return answers


def _decoding_of(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float]:
    until = options.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    drawn = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
    return stops, int(options.get("max_gen_toks") or _NEW_TOKENS), drawn


def _begin(asker: Asker) -> int:
    tokenizer = asker.tokenizer
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def _context(asker: Asker, prompts: PlainPrompts | TemplatePrompts, text: str) -> list[int]:
    # A rendered conversation holds its beginning already.
    plain = isinstance(prompts, PlainPrompts)
    return asker.tokenizer(text, add_special_tokens=plain)["input_ids"] or [_begin(asker)]


def _pair(
    asker: Asker, prompts: PlainPrompts | TemplatePrompts, context: str, continuations: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """As the harness tokenizes them: together, blanks at the end of the context with the continuation."""
    text = context.rstrip()
    blank = context[len(text) :]
    if not text:
        texts = [blank + continuation for continuation in continuations]
        return [_begin(asker)], asker.tokenizer(texts, add_special_tokens=False)["input_ids"]
    before = _context(asker, prompts, text)
    wholes = [_context(asker, prompts, text + blank + continuation) for continuation in continuations]
    return before, [whole[len(before) :] for whole in wholes]
