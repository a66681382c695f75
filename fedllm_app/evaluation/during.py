"""A small suite asked during a run, of the global adapter in the model that is loaded anyway.

On the server for sets that everybody knows; on the clients where the server has no base, or where every client has
its own copy of the sets.

Clients import this module whether or not they are asked a suite, so what imports torch and TRL is imported in
functions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fedllm_app.config.sections import Config
from fedllm_app.config.values import adapter_values, model_values
from fedllm_app.data.templates import get_template
from fedllm_app.evaluation.extra import check_extra
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.prompts import PlainPrompts, Prompts, TemplatePrompts
from fedllm_app.evaluation.sampling import drawn, questions_of
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import Answer, EvaluationTask, Means, Question, ScorePair, Suite
from fedllm_app.evaluation.suites import load_suite
from fedllm_app.models.base import context_length
from fedllm_app.runs.directory import PromptRecord, RunDirectory
from fedllm_app.training.resident import Resident, ResidentKey, resident, set_threads


@dataclass
class SuiteWatch:
    """Asks a suite of one adapter after the other, the same questions each time.

    Attributes
    ----------
    name : str
        A suite's name or path, or "file:PATH".
    data_dir : Path | None
        Where local copies of the sets are.
    limit : int
        Questions of each set, 0: all.
    prompt : PromptRecord
        The run's template.
    seed : int
        Draws the questions.
    virtual_tokens : int
        Positions that the adapter takes.
    """

    name: str
    data_dir: Path | None
    limit: int
    prompt: PromptRecord
    seed: int
    virtual_tokens: int = 0

    @cached_property
    def suite(self) -> Suite:
        """The suite. Its errors say what is wrong with the name or the file."""
        return load_suite(self.name)

    @cached_property
    def questions(self) -> list[tuple[EvaluationTask, list[Question]]]:
        """What is asked of each set. MissingSets names those that are not here."""
        rows = open_all(self.suite.tasks, self.data_dir).rows
        return [(task, drawn(questions_of(task, rows), self.limit, self.seed)) for task in self.suite.tasks]

    def figures(self, model: Resident, adapter: np.ndarray) -> dict[str, float]:
        """Every metric of the suite under the packed `adapter`, by "set/metric"; those without a value are left out."""
        from fedllm_app.evaluation.answers import Answers
        from fedllm_app.evaluation.asking import Asker
        from fedllm_app.evaluation.reading import SharedReader

        shared = SharedReader(model.model.get_base_model()) if self._shares(model) else None
        context = context_length(model.location)
        bases: dict[str, list[Answer]] = {}
        pairs = [(task, asked) for task, asked in self.questions if isinstance(task.ask, ScorePair)]
        if pairs:
            with model.using(None) as base:
                asker = Asker(base, model.tokenizer, shared, context)
                for task, asked in pairs:
                    bases[task.name] = Answers(asker, self._prompts(model, task)).to(asked, task.ask)
        found = {}
        with model.using(adapter) as adapted:
            asker = Asker(adapted, model.tokenizer, shared, context and context - self.virtual_tokens)
            for task, asked in self.questions:
                answers = Answers(asker, self._prompts(model, task), bases.get(task.name), self.seed).to(
                    asked, task.ask
                )
                grades = task.grade(asked, answers, Means())
                for metric in task.metrics:
                    value = value_of(metric, asked, grades)
                    if value is not None:
                        found[f"{task.name}/{metric.name}"] = value
        return found

    def _shares(self, model: Resident) -> bool:
        from fedllm_app.evaluation.reading import SharedReader

        base = model.model.get_base_model()
        return not self.virtual_tokens and model.head == "completion" and SharedReader(base).agrees() == ""

    def _prompts(self, model: Resident, task: EvaluationTask) -> Prompts:
        if task.template == "plain":
            return PlainPrompts(model.tokenizer)
        template = get_template(
            self.prompt.template,
            model.tokenizer,
            self.prompt.text,
            special_tokens_in_text=self.prompt.special_tokens_in_text,
            stops=model.stops,
        )
        return TemplatePrompts(model.tokenizer, template, self.prompt.system_prompt or None)


def suite_watch(config: Config, at: str) -> SuiteWatch | None:
    """What a configuration has asked at "server" or "clients"; None if nothing. MissingExtra as in `check_extra`."""
    evaluate, data = config.evaluate, config.data
    if not evaluate.suite or evaluate.suite_at != at or not evaluate.every:
        return None
    check_extra(f"evaluate.suite = {evaluate.suite!r}", [evaluate.suite])
    return SuiteWatch(
        name=evaluate.suite,
        data_dir=Path(evaluate.suite_data) if evaluate.suite_data else None,
        limit=evaluate.suite_limit,
        prompt=PromptRecord.of(data.template, data.system_prompt, data.special_tokens_in_text),
        seed=config.run.seed,
        virtual_tokens=config.adapter.positions,
    )


def on_server(
    config: Config, directory: RunDirectory, merge: Callable[[np.ndarray], np.ndarray]
) -> Callable[[int, np.ndarray], None] | None:
    """Asks the suite of a round's global adapter and journals its figures; None if the server is to ask nothing.

    The suite, its sets and their questions are found at once, before any client is asked; the base is loaded when it is
    first needed. `merge` makes the whole adapter of the part that travels.
    """
    watch = suite_watch(config, "server")
    if watch is None:
        return None
    counts = {task.name: len(asked) for task, asked in watch.questions}
    key = ResidentKey(config.train.task, model_values(config), adapter_values(config))

    def ask(server_round: int, adapter: np.ndarray) -> None:
        import torch

        began = time.perf_counter()
        threads = torch.get_num_threads()
        set_threads(0)  # the clients wait
        try:
            figures = watch.figures(resident(key), merge(adapter))
        finally:
            set_threads(threads)
        seconds = time.perf_counter() - began
        directory.journal(
            "suite", round=server_round, suite=watch.name, questions=counts, figures=figures, seconds=seconds
        )

    return ask
