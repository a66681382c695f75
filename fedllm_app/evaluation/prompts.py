"""Questions as token ids: in the plain text of a set's protocol, or in a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedllm_app.data.encoding import Refused, encode_prompts, encode_rows
from fedllm_app.data.templates import Template, TemplateError, Turn
from fedllm_app.evaluation.generation import answer_text
from fedllm_app.evaluation.suite import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PlainPrompts:
    """The protocol's own text, with what the tokenizer puts before every text and nothing else."""

    tokenizer: "PreTrainedTokenizerBase"
    name: str = "plain"

    def prompts(self, questions: Sequence[Question]) -> list[list[int]]:
        """Token ids of the prompts."""
        texts = [self.text(question) for question in questions]
        return [self._begun(ids) for ids in self.tokenizer(texts, add_special_tokens=True)["input_ids"]]

    def text(self, question: Question) -> str:
        """The prompt as text; earlier turns, which a plain prompt does not know, one below the other."""
        if question.plain:
            return question.plain
        return "\n".join([content for _, content in question.turns] + [question.text])

    def choices(self, questions: Sequence[Question], separator: str) -> list[tuple[list[int], list[list[int]]]]:
        """Token ids of each prompt, and of its choices behind it.

        Prompt and choice are tokenized together, and blanks at the end of the prompt belong to the choice, as a text
        would be written: most vocabularies hold " B" as one token.
        """
        encoded = []
        for question in questions:
            text = self.text(question)
            context = text.rstrip(" ")
            own = self.tokenizer(context, add_special_tokens=True)["input_ids"]
            options = []
            for choice in question.choices:
                space = separator if context == text else text[len(context) :]
                whole = self.tokenizer(context + space + choice, add_special_tokens=True)["input_ids"]
                options.append(whole[len(own) :] or whole[-1:])
            encoded.append((self._begun(own), options))
        return encoded

    def answers(self, questions: Sequence[Question], texts: Sequence[Sequence[str]]) -> list:
        """As `choices`, for whole answers of one's own."""
        return self.choices(
            [
                Question(question.text, question.plain, choices=tuple(those), turns=question.turns)
                for question, those in zip(questions, texts, strict=True)
            ],
            " ",
        )

    def stops(self) -> frozenset[int]:
        """Ids at which an answer ends."""
        return frozenset([self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else [])

    def read(self, ids: list[int]) -> str:
        """An answer as text."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _begun(self, ids: list[int]) -> list[int]:
        return ids or [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else 0]


@dataclass(frozen=True)
class TemplatePrompts:
    """The question as a user's turn in a template, its worked examples as earlier turns; answers as in training."""

    tokenizer: "PreTrainedTokenizerBase"
    template: Template
    system_prompt: str | None

    @property
    def name(self) -> str:
        """The template's name."""
        return self.template.name

    def turns(self, question: Question) -> list[Turn]:
        """The conversation up to the answer."""
        return [*question.turns, ("user", question.text)]

    def text(self, question: Question) -> str:
        """The prompt as text."""
        return self.template.render_prompt(self.turns(question), self.system_prompt)

    def prompts(self, questions: Sequence[Question]) -> list[list[int]]:
        """Token ids of the prompts. TemplateError if the template refuses one."""
        turns = [self.turns(question) for question in questions]
        return encode_prompts(turns, self.template, self.tokenizer, self.system_prompt)

    def choices(self, questions: Sequence[Question], _separator: str) -> list[tuple[list[int], list[list[int]]]]:
        """Token ids of each prompt, and of its choices: what stands before an answer, and the choice."""
        prefix = self.template.completion_prefix
        encoded = []
        for question, prompt in zip(questions, self.prompts(questions), strict=True):
            texts = [prefix + choice for choice in question.choices]
            options = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            encoded.append((prompt, options))
        return encoded

    def answers(self, questions: Sequence[Question], texts: Sequence[Sequence[str]]) -> list:
        """Token ids of each prompt and of answers to it with the token that ends them: what training learns.

        TemplateError names the first question that cannot be written.
        """
        rows = [(self.turns(question), those) for question, those in zip(questions, texts, strict=True)]
        encoded = []
        for number, row in enumerate(encode_rows(rows, self.template, self.system_prompt)):
            if isinstance(row, Refused):
                raise TemplateError(f"question {number + 1}: {row.reason}")
            encoded.append((row.prompt, row.completions))
        return encoded

    def stops(self) -> frozenset[int]:
        """Ids at which an answer ends."""
        return frozenset([self.tokenizer.convert_tokens_to_ids(self.template.end), *self.template.stops])

    def read(self, ids: list[int]) -> str:
        """An answer as text, without what the template puts around it."""
        return answer_text(ids, self.tokenizer, self.template).removesuffix(self.template.closing)


Prompts = PlainPrompts | TemplatePrompts
