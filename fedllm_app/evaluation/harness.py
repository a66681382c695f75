"""lm-evaluation-harness (extra `eval`) over our loaded model: its `LM` interface, and its tasks as tasks of a suite.

Any task of the harness can be asked with `--suite lm-eval:TASK,...`, with the adapters side by side over one base. Its
data comes from the Hub, unless a task's YAML file (`--include-path`) names local files.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.errors import UserError
from fedllm_app.evaluation.asking import Asker, Decoding
from fedllm_app.evaluation.prompts import PlainPrompts, TemplatePrompts
from fedllm_app.evaluation.suite import (
    Choose,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    TestSet,
    each,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

PREFIX = "lm-eval:"
_NEW_TOKENS = 256  # the harness's own default


class HarnessError(UserError):
    """lm-evaluation-harness is not installed, does not know a task, or cannot load its data."""


def harness_model(asker: Asker, prompts: PlainPrompts | TemplatePrompts) -> "LM":
    """A model of lm-evaluation-harness that asks through `asker`.

    Parameters
    ----------
    prompts : PlainPrompts | TemplatePrompts
        With a template, a task's text becomes the user's turn (`apply_chat_template`); else it is read as it is.
    """
    from lm_eval.api.model import LM

    class AskedModel(LM):
        """Loglikelihood, rolling and generate_until, batched by length, with common beginnings read once."""

        @cached_property
        def tokenizer_name(self) -> str:
            """Part of the harness's cache keys."""
            return asker.tokenizer.name_or_path.replace("/", "__")

        def chat_template(self, _chat_template: Any = False) -> str:
            """What the harness records of the template."""
            return prompts.name

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """A conversation as text."""
            turns = tuple((turn["role"], turn["content"]) for turn in chat_history)
            return prompts.text(Question(turns[-1][1], turns=turns[:-1]))

        def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Of (context, continuation): requests with the same context are read together."""
            places: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                places.setdefault(request.args[0], []).append(place)
            asked = [
                _pair(asker, prompts, context, [requests[p].args[1] for p in those])
                for context, those in places.items()
            ]
            results: list = [None] * len(requests)
            for those, scores in zip(places.values(), asker.log_likelihoods(asked), strict=True):
                for place, score in zip(those, scores, strict=True):
                    results[place] = (score.log_likelihood, score.greedy)
            return results

        def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
            """Of whole texts, in windows that each see as much as the model reads."""
            from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

            begin = _begin(asker)
            asked, owners = [], []
            for number, request in enumerate(requests):
                ids = asker.tokenizer(request.args[0], add_special_tokens=False)["input_ids"]
                windows = get_rolling_token_windows(ids, begin, asker.context or max(2, len(ids) + 1), context_len=1)
                for context, continuation in map(make_disjoint_window, windows):
                    asked.append((context, [continuation]))
                    owners.append(number)
            totals = [0.0] * len(requests)
            for owner, (score,) in zip(owners, asker.log_likelihoods(asked), strict=True):
                totals[owner] += score.log_likelihood
            return totals

        def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
            """Greedy answers (or drawn, where a task sets a temperature), up to the texts that a task names."""
            answers: list[str] = [""] * len(requests)
            groups: dict[tuple, list[int]] = {}
            for place, request in enumerate(requests):
                groups.setdefault(_decoding_of(request.args[1]), []).append(place)
            for (stops, new_tokens, temperature), places in groups.items():
                ids = [_context(asker, prompts, requests[place].args[0]) for place in places]

                def ends(so_far: list[int], stops: tuple = stops) -> bool:
                    return any(stop in prompts.read(so_far[-24:]) for stop in stops)

                decoding = Decoding(new_tokens, prompts.stops(), ends, temperature)
                for place, tokens in zip(places, asker.generate(ids, decoding), strict=True):
                    text = prompts.read(tokens)
                    found = [text.index(stop) for stop in stops if stop in text]
                    answers[place] = text[: min(found)] if found else text
            return answers

    return AskedModel()


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


def harness_tasks(names: str, include_path: Path | None = None) -> tuple[list[str], Any]:
    """The tasks that `names` lists, separated by commas, and the harness's TaskManager that knows them.

    Raises
    ------
    HarnessError
        The harness is missing, or a name is unknown.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise HarnessError("lm-evaluation-harness is not installed: pip install 'fedllm-app[eval]'") from error
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if not manager.match_tasks([name])]
    if unknown or not wanted:
        raise HarnessError(
            f"lm-evaluation-harness has no task {', '.join(unknown) or 'without a name'}; `lm-eval ls tasks` lists "
            "them, and --include-path adds your own"
        )
    return wanted, manager


def ask_harness(
    model: "LM", wanted: Sequence[str], manager: Any, limit: int | None, template: bool, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The harness's samples by task: one dict a document, with the task's own metrics."""
    from lm_eval import simple_evaluate

    try:
        results = simple_evaluate(
            model=model,
            tasks=list(wanted),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=template,
            task_manager=manager,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, ConnectionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HarnessError(f"lm-evaluation-harness cannot ask {', '.join(wanted)}: {lines[0][:300]}") from error
    return results["samples"]


def task_of_samples(
    name: str, samples: Sequence[Mapping[str, Any]]
) -> tuple[EvaluationTask, list[Question], list[Grade]]:
    """A task of the harness as one of ours: its documents as questions, its metrics of each as grades."""
    keys = list(dict.fromkeys(key for sample in samples for key in sample["metrics"]))
    grades = [
        Grade({key: float(sample[key]) for key in keys if isinstance(sample.get(key), bool | int | float)})
        for sample in samples
    ]
    metrics = []
    for key in keys:
        values = {grade.values[key] for grade in grades if key in grade.values}
        if values:
            share = values <= {0.0, 1.0}
            metrics.append(Metric(key, "share" if share else "mean", key, percent=share))
    generated = bool(samples) and samples[0].get("arguments") is not None and "until" in str(samples[0]["arguments"])
    task = EvaluationTask(
        name=name,
        test=TestSet(name, "", "", len(samples), "see the task's own page"),
        questions=lambda _rows, _shots: [],
        ask=Generate(_NEW_TOKENS) if generated else Choose(),
        grade=each(lambda _question, _answer: Grade()),
        metrics=tuple(metrics),
        rule="as the task of lm-evaluation-harness defines it",
        template="plain",
    )
    questions = [Question(str(sample["doc"]), gold=str(sample.get("target", ""))) for sample in samples]
    return task, questions, grades
