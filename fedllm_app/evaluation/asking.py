"""Log-likelihoods and answers of a model, in batches of rows of like length; what rows have in common is read once."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedllm_app.evaluation.progress import Done, nothing
from fedllm_app.evaluation.reading import Past, SharedReader
from fedllm_app.training.head import score_completions
from fedllm_app.training.trainer import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ids = Sequence[int]

BATCH_TOKENS = 8192
"""Positions of a batch, padding included, unless a number of rows is given: on two cores, larger ones gain nothing."""

_COMMON = 16  # prompts that begin with so many equal tokens are read together
_KEEP = 0.75  # rows that have ended leave the batch once fewer than this share go on


@dataclass(frozen=True)
class Scored:
    """The log-likelihood of a continuation (natural logarithm), its tokens, and whether all were the most likely."""

    log_likelihood: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    `ends(ids)` tells of the tokens so far whether the answer is complete; `stops` are token ids that end it.
    """

    max_new_tokens: int
    stops: frozenset[int]
    ends: Callable[[list[int]], bool] = lambda _ids: False
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Asker:
    """Asks a loaded model: `model` is the base, or a PEFT model around it.

    Attributes
    ----------
    reader : SharedReader | None
        None where rows must be read whole: virtual tokens before every row, a head that is no plain product, a cache
        that does not allow it.
    batch_rows : int
        Rows of a batch; 0: as many as `BATCH_TOKENS` allow.
    context : int | None
        Positions that the model reads; longer prompts lose their beginning, which `cut` counts.
    done : Done
        Is told of each prompt when it is scored or its answer has ended.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    reader: SharedReader | None
    context: int | None = None
    batch_rows: int = 0
    cut: int = field(default=0, init=False)
    done: Done = field(default_factory=lambda: nothing, init=False)

    @torch.no_grad()
    def log_likelihoods(self, requests: Sequence[tuple[Ids, Sequence[Ids]]]) -> list[list[Scored]]:
        """Score continuations (at least one token each) of contexts (at least one token)."""
        self.model.eval()
        # The last token of a continuation is predicted and not read.
        fitted = [(self._fit(context, max(map(len, options)) - 1), options) for context, options in requests]
        results: list[list[Scored]] = [[] for _ in fitted]
        if self.reader is None:
            self._score_whole(fitted, results)
        else:
            for prefix, members in _families([context for context, _ in fitted]):
                self._score_family(prefix, members, fitted, results)
        return results

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Ids], decoding: Decoding, limits: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Answers as token ids, without the token of `stops` that ended them. `limits`: new tokens of each prompt."""
        self.model.eval()
        fitted = [self._fit(prompt, decoding.max_new_tokens) for prompt in prompts]
        results: list[list[int]] = [[] for _ in fitted]
        limits = limits or [decoding.max_new_tokens] * len(fitted)
        if self.reader is None:
            self._generate_whole(fitted, decoding, results)
            return [answer[:limit] for answer, limit in zip(results, limits, strict=True)]
        for prefix, members in _families(fitted):
            past = self.reader.read([prefix])[1] if prefix else None
            for batch in self._batches([len(fitted[m]) + decoding.max_new_tokens for m in members]):
                places = [members[b] for b in batch]
                rows = [fitted[place][len(prefix) :] for place in places]
                hidden, read = self.reader.read(rows, past and past.select([0] * len(rows)))
                last = hidden[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
                answers = self._decode(last, read, decoding, [limits[place] for place in places])
                for place, answer in zip(places, answers, strict=True):
                    results[place] = answer
        return results

    def _fit(self, prompt: Ids, behind: int) -> list[int]:
        prompt = list(prompt)
        if self.context and len(prompt) + behind > self.context:
            self.cut += 1
            return prompt[-max(1, self.context - behind) :]
        return prompt

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places in `lengths`, the longest first, in batches."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        while order:
            rows = self.batch_rows or max(1, BATCH_TOKENS // lengths[order[0]])
            yield order[:rows]
            order = order[rows:]

    def _score_family(self, prefix: Ids, members: Sequence[int], requests: Sequence, results: list) -> None:
        reader = self.reader
        past = reader.read([prefix])[1] if prefix else None
        for batch in self._batches([len(requests[m][0]) - len(prefix) for m in members]):
            places = [members[b] for b in batch]
            rows = [requests[place][0][len(prefix) :] for place in places]
            hidden, read = reader.read(rows, past and past.select([0] * len(rows)))
            last = hidden[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
            first = reader.logits(last).log_softmax(-1)
            best = first.argmax(-1).tolist()
            totals, greedy = {}, {}
            longer = []
            for row, place in enumerate(places):
                for option, ids in enumerate(requests[place][1]):
                    totals[row, option] = float(first[row, ids[0]])
                    greedy[row, option] = best[row] == ids[0]
                    if len(ids) > 1:
                        longer.append((row, option, ids))
            for row, option, total, all_best in self._continuations(read, longer):
                totals[row, option] += total
                greedy[row, option] &= all_best
            for row, place in enumerate(places):
                results[place] = [
                    Scored(totals[row, option], len(ids), greedy[row, option])
                    for option, ids in enumerate(requests[place][1])
                ]
            self.done(len(places))

    def _continuations(self, read: Past, longer: Sequence) -> Iterator[tuple[int, int, float, bool]]:
        """Of continuations of several tokens: what the tokens after the first add."""
        for batch in self._batches([read.mask.shape[1] + len(ids) for _, _, ids in longer]):
            those = [longer[b] for b in batch]
            hidden, _ = self.reader.read([ids[:-1] for _, _, ids in those], read.select([row for row, _, _ in those]))
            for number, (row, option, ids) in enumerate(those):
                scores = self.reader.logits(hidden[number, : len(ids) - 1]).log_softmax(-1)
                target = torch.tensor(ids[1:], device=scores.device)
                total = scores.gather(1, target[:, None]).sum()
                yield row, option, float(total), bool((scores.argmax(-1) == target).all())

    def _score_whole(self, requests: Sequence, results: list) -> None:
        flat = [(place, context, ids) for place, (context, options) in enumerate(requests) for ids in options]
        found: dict[int, Scored] = {}
        left = [len(ids) for _, ids in requests]
        for batch in self._batches([len(context) + len(ids) for _, context, ids in flat]):
            rows = []
            for number in batch:
                _, context, ids = flat[number]
                rows.append((np.array([*context, *ids]), len(context)))
            input_ids, labels = collate(rows, self.model.device)
            log_probs, correct, scored = score_completions(self.model, input_ids, labels)
            sums, right = log_probs.double().sum(1).tolist(), (correct | ~scored).all(1).tolist()
            for number, total, greedy in zip(batch, sums, right, strict=True):
                found[number] = Scored(total, len(flat[number][2]), greedy)
                left[flat[number][0]] -= 1
            self.done(sum(left[place] == 0 for place in {flat[number][0] for number in batch}))
        for number, (place, _, _) in enumerate(flat):
            results[place].append(found[number])

    def _decode(self, hidden: torch.Tensor, past: Past, decoding: Decoding, limits: Sequence[int]) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in range(len(hidden))]
        active = list(range(len(hidden)))  # of each row of the batch, whose answer it is
        going = set(active)
        generator = torch.Generator(hidden.device).manual_seed(decoding.seed) if decoding.temperature else None
        for step in range(decoding.max_new_tokens):
            logits = self.reader.logits(hidden)
            if generator is None:
                chosen = logits.argmax(-1).tolist()
            else:
                probabilities = (logits / decoding.temperature).softmax(-1)
                chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
            before = len(going)
            for row, token in zip(active, chosen, strict=True):
                if row in going and token in decoding.stops:
                    going.discard(row)
                elif row in going:
                    answers[row].append(token)
                    if len(answers[row]) >= limits[row] or decoding.ends(answers[row]):
                        going.discard(row)
            self.done(before - len(going))
            if not going or step + 1 == decoding.max_new_tokens:
                break
            if len(going) < _KEEP * len(active):
                kept = [place for place, row in enumerate(active) if row in going]
                past, active = past.select(kept), [active[place] for place in kept]
                chosen = [chosen[place] for place in kept]
            states, past = self.reader.read([[token] for token in chosen], past)
            hidden = states[:, -1]
        self.done(len(going))  # whose length ended them
        return answers

    def _generate_whole(self, prompts: Sequence[Ids], decoding: Decoding, results: list) -> None:
        from torch.nn.utils.rnn import pad_sequence

        padding = self.tokenizer.pad_token_id
        if padding is None:
            padding = self.tokenizer.eos_token_id
        sampling = {"do_sample": False}
        if decoding.temperature:
            torch.manual_seed(decoding.seed)
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
        for batch in self._batches([len(prompt) + decoding.max_new_tokens for prompt in prompts]):
            rows = [torch.tensor(prompts[place], device=self.model.device) for place in batch]
            ids, mask = (
                pad_sequence(those, batch_first=True, padding_value=value, padding_side="left")
                for those, value in ((rows, padding), ([torch.ones_like(row) for row in rows], 0))
            )
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=decoding.max_new_tokens,
                use_cache=True,
                pad_token_id=padding,
                eos_token_id=list(decoding.stops),
                **sampling,
            )
            for place, answer in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                end = next((at for at, token in enumerate(answer) if token in decoding.stops), len(answer))
                results[place] = answer[:end]
            self.done(len(batch))


def _families(prompts: Sequence[Ids]) -> list[tuple[list[int], list[int]]]:
    """Places of prompts by what they begin with: (common beginning, places); [] for those that share nothing.

    At least one token of every prompt is left behind the beginning.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[tuple(prompt[:_COMMON])].append(place)
    families, alone = [], []
    for start, members in groups.items():
        if len(members) < 2 or len(start) < _COMMON:
            alone += members
            continue
        shortest = min(len(prompts[member]) for member in members)
        rows = np.array([prompts[member][: shortest - 1] for member in members])
        same = (rows == rows[0]).all(0)
        families.append((list(prompts[members[0]][: len(same) if same.all() else int(same.argmin())]), members))
    return [*families, ([], sorted(alone))] if alone else families
