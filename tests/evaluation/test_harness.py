"""lm-evaluation-harness over our model: what it asks for, and its own tasks on local files."""

import json

import pytest
from lm_eval.api.instance import Instance

from fedllm_app.evaluation.asking import Asker
from fedllm_app.evaluation.harness import HarnessError, ask_harness, harness_tasks, task_of_samples
from fedllm_app.evaluation.harness_model import AskedModel
from fedllm_app.evaluation.prompts import PlainPrompts
from fedllm_app.evaluation.reading import SharedReader
from fedllm_app.models.base import ModelValues, load_model, load_tokenizer, locate_model
from fedllm_app.training.head import install_head


@pytest.fixture(scope="module")
def models(tiny_model):
    """Ours, and the harness's own for transformers, of the same weights: behind <|begin|> and, for rolling, behind the
    harness's own beginning alone."""
    from lm_eval.models.huggingface import HFLM

    base = load_model(ModelValues(str(tiny_model), "float32"))
    tokenizer = load_tokenizer(locate_model(str(tiny_model)))
    theirs, rolling = (
        HFLM(pretrained=base, tokenizer=tokenizer, batch_size=2, add_bos_token=begins, max_length=64)
        for begins in (True, False)
    )
    theirs.loglikelihood_rolling = rolling.loglikelihood_rolling
    install_head(base, "completion")
    asker = Asker(base.eval(), tokenizer, SharedReader(base), context=64)
    return AskedModel(asker, PlainPrompts(tokenizer)), theirs


def requests(kind, *arguments):
    return [Instance(kind, {}, those, number) for number, those in enumerate(arguments)]


def test_log_likelihoods_are_those_of_the_harnesss_own_model(models):
    """Contexts that repeat, a blank at a context's end, a continuation of one token, an empty context."""
    ours, theirs = models
    asked = requests(
        "loglikelihood", ("Q: a?\nA:", " yes"), ("Q: a?\nA:", " no"), ("Q: b? ", "it is"), ("Q:", "x"), ("", "text")
    )
    for (value, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True), strict=True
    ):
        assert (value, greedy) == (pytest.approx(expected, abs=1e-3), expected_greedy)


def test_rolling_log_likelihoods_are_those_of_the_harnesss_own_model(models):
    """The second text is longer than the 64 tokens that the model reads: three windows."""
    ours, theirs = models
    asked = requests("loglikelihood_rolling", ("Short.",), ("A text of many bytes, " * 7,))
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked, disable_tqdm=True), rel=1e-4
    )


def test_answers_end_at_the_texts_that_a_task_names(models):
    """The free answer's first printable letters are a stop for the second request."""
    ours, _ = models
    (free,) = ours.generate_until(requests("generate_until", ("Q: a?", {"max_gen_toks": 12})))
    stop = free[3]
    options = {"until": [stop], "max_gen_toks": 12}
    assert ours.generate_until(requests("generate_until", ("Q: a?", options))) == [free[: free.index(stop)]]


@pytest.fixture
def own_task(tmp_path):
    """Three questions with two choices each, as a task of the harness on a local file."""
    rows = [{"q": f"Is {number} even?", "answer": number % 2} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        "task: even\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}\\nA:"\n'
        'doc_to_choice: ["yes", "no"]\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n'
    )
    return tmp_path


def test_a_task_of_the_harness_becomes_one_of_ours(models, own_task):
    """Its accuracy is that of the harness's own model."""
    ours, theirs = models
    wanted, manager = harness_tasks("even", own_task)
    samples = ask_harness(ours, wanted, manager, None, False, 0)["even"]
    expected = ask_harness(theirs, wanted, manager, None, False, 0)["even"]
    sampled = task_of_samples("even", samples)
    assert [grade.values for grade in sampled.grades] == [{"acc": sample["acc"]} for sample in expected]
    (metric,) = sampled.task.metrics
    assert (metric.name, metric.kind, len(sampled.questions)) == ("acc", "share", 3)


def test_an_unknown_task_is_named():
    with pytest.raises(HarnessError, match="no task evven"):
        harness_tasks("evven")
