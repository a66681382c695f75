"""The answers of one model to the questions of one set, however the set asks: from questions to `Answer`s."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fedllm_app.evaluation.asking import Asker, Decoding, Scored
from fedllm_app.evaluation.prompts import PlainPrompts, Prompts
from fedllm_app.evaluation.suite import (
    Answer,
    Ask,
    Choose,
    Converse,
    Generate,
    Question,
    ScoreAnswer,
    ScorePair,
)

_WINDOW = 24  # tokens at the end of an answer in which a text that stops it is looked for
_ROOM = 1.25  # of the longest right answer, for answers that are generated


@dataclass
class Answers:
    """Gives a model's answers.

    Attributes
    ----------
    asker, prompts : Asker, Prompts
        The model, and how questions are written.
    base : Asker | None
        For `ScorePair` under an adapter: the base alone is asked first, through `base_pairs`.
    seed : int
        Of answers that are drawn.
    """

    asker: Asker
    prompts: Prompts
    base_pairs: Sequence[Answer] | None = None
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    def to(self, questions: Sequence[Question], ask: Ask) -> list[Answer]:
        """One answer to each question."""
        if isinstance(ask, Choose):
            return self._choose(questions, ask)
        if isinstance(ask, ScorePair):
            return self._score_pairs(questions)
        if isinstance(ask, ScoreAnswer):
            return self._score_answers(questions, ask)
        if isinstance(ask, Converse):
            return self._converse(questions, ask)
        return self._generate(questions, ask)

    def _generate(self, questions: Sequence[Question], ask: Generate) -> list[Answer]:
        prompts = self.prompts.prompts(questions)
        limits = [ask.max_new_tokens] * len(prompts)
        if ask.total_tokens:
            limits = [max(1, min(ask.max_new_tokens, ask.total_tokens - len(prompt))) for prompt in prompts]
        # They are those of the protocol's own text: in a template, a turn has an end.
        stops = ask.stops if isinstance(self.prompts, PlainPrompts) else ()
        samples = [
            self._texts(prompts, limits, stops, ask.temperature, self.seed + number) for number in range(ask.samples)
        ]
        return [
            Answer(tuple(text for text, _ in those), cut=any(cut for _, cut in those))
            for those in zip(*samples, strict=True)
        ]

    def _texts(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        stops: tuple[str, ...] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[tuple[str, bool]]:
        """Texts, each with whether only its length ended it."""

        def ends(ids: list[int]) -> bool:
            tail = self.prompts.read(ids[-_WINDOW:])
            return any(stop in tail for stop in stops)

        decoding = Decoding(max(limits, default=1), self.prompts.stops(), ends, temperature, seed)
        if not stops:
            decoding = replace(decoding, ends=lambda _ids: False)
        texts = []
        for ids, limit in zip(self.asker.generate(prompts, decoding, limits), limits, strict=True):
            text = self.prompts.read(ids)
            found = [text.index(stop) for stop in stops if stop in text]
            texts.append((text[: min(found)] if found else text, len(ids) >= limit and not found))
        return texts

    def _choose(self, questions: Sequence[Question], ask: Choose) -> list[Answer]:
        scored = self.asker.log_likelihoods(self.prompts.choices(questions, ask.separator))
        return [_scored(those) for those in scored]

    def _score_pairs(self, questions: Sequence[Question]) -> list[Answer]:
        requests = self.prompts.answers(questions, [question.choices for question in questions])
        answers = [_scored(those) for those in self.asker.log_likelihoods(requests)]
        bases = self.base_pairs or answers
        return [
            replace(answer, base_log_likelihoods=base.log_likelihoods)
            for answer, base in zip(answers, bases, strict=True)
        ]

    def _score_answers(self, questions: Sequence[Question], ask: ScoreAnswer) -> list[Answer]:
        requests = self.prompts.answers(questions, [(str(question.gold),) for question in questions])
        scored = self.asker.log_likelihoods(requests)
        longest = max((len(ids) for _, options in requests for ids in options), default=1)
        new_tokens = ask.max_new_tokens or int(_ROOM * longest) + 1
        texts = self._texts([prompt for prompt, _ in requests], [new_tokens] * len(requests))
        return [
            replace(_scored(those), texts=(text,), cut=cut) for those, (text, cut) in zip(scored, texts, strict=True)
        ]

    def _converse(self, questions: Sequence[Question], ask: Converse) -> list[Answer]:
        limits = [ask.max_new_tokens] * len(questions)
        first = self._texts(self.prompts.prompts(questions), limits)
        second_turns = [
            replace(
                question,
                turns=(*question.turns, ("user", question.text), ("assistant", text)),
                text=question.follow_up,
                plain="",
            )
            for question, (text, _) in zip(questions, first, strict=True)
            if question.follow_up
        ]
        second = iter(self._texts(self.prompts.prompts(second_turns), limits[: len(second_turns)]))
        answers = []
        for question, (text, cut) in zip(questions, first, strict=True):
            if question.follow_up:
                again, also_cut = next(second)
                answers.append(Answer((text, again), cut=cut or also_cut))
            else:
                answers.append(Answer((text,), cut=cut))
        return answers


def prompts_of(questions: Sequence[Question], ask: Ask) -> int:
    """How many prompts the questions take in all."""
    if isinstance(ask, Generate):
        return len(questions) * ask.samples
    if isinstance(ask, ScoreAnswer):  # the right answer is scored, and one is generated
        return len(questions) * 2
    if isinstance(ask, Converse):
        return len(questions) + sum(bool(question.follow_up) for question in questions)
    return len(questions)


def _scored(those: Sequence[Scored]) -> Answer:
    return Answer(
        log_likelihoods=tuple(each.log_likelihood for each in those), tokens=tuple(each.tokens for each in those)
    )
