"""FPB, FiQA-SA, TFNS and NWGI by FinGPT's protocol and by FlowerTune's: rows and answers made by hand, real files."""

import re
from collections import Counter

import numpy as np
import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import TaskFigures, averages_of, value_of
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.set_rows import MissingSets, open_all, open_rows
from fedllm_app.evaluation.sets import finance, flowertune_finance
from fedllm_app.evaluation.sets.letters import UNREAD
from fedllm_app.evaluation.suite import Answer, Generate, Means, Question
from fedllm_app.evaluation.suites import load_suite

NEWS = "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}."
TWEET = "What is the sentiment of this tweet? Please choose an answer from {negative/neutral/positive}."
OWN = {"instruction": "Good or bad?", "input": "Profit rose.", "output": "positive"}
FPB = {"sentence": "Profit rose.", "label": 2, "subset": "sentences_50agree"}
FIQA = {"sentence": "Profit rose.", "sentiment_score": 0.5, "format": "headline"}
TFNS = {"text": "Profit rose.", "label": 1}
NWGI = {"news": "Profit rose.", "label": "mildly positive"}


def metrics_of(task, golds, texts):
    """Figures by name, of answers to questions with these right answers."""
    questions = [Question("q", gold=gold) for gold in golds]
    grades = task.grade(questions, [Answer((text,)) for text in texts], Means())
    return {metric.name: value_of(metric, questions, grades) for metric in task.metrics}


@pytest.mark.parametrize(
    ("task", "row", "instruction"),
    [
        (finance.FPB, FPB, NEWS),
        (finance.FPB, FPB | {"label": "Positive"}, NEWS),
        (finance.FPB, FPB | {"label": "2"}, NEWS),
        (finance.FPB, FPB | {"label": 2.0}, NEWS),
        (finance.FPB, OWN, "Good or bad?"),
        (finance.FIQA, FIQA, NEWS),
        (finance.FIQA, FIQA | {"format": "post", "sentiment_score": "0.5"}, TWEET),
        (finance.FIQA, OWN, "Good or bad?"),
        (finance.TFNS, TFNS, TWEET),
        (finance.TFNS, OWN, "Good or bad?"),
        (finance.NWGI, NWGI | {"label": "strong positive"}, NEWS),
        (finance.NWGI, OWN | {"output": "Moderately positive"}, NEWS),  # whatever the row asks, three are asked for
    ],
)
def test_every_schema_gives_the_same_prompt(task, row, instruction):
    (question,) = task.questions([row], [])
    assert question.plain == f"Instruction: {instruction}\nInput: Profit rose.\nAnswer: "
    assert (question.text, question.gold) == (f"{instruction}\n\nProfit rose.", "positive")


@pytest.mark.parametrize(
    ("task", "row", "column", "golds"),
    [
        (finance.FPB, FPB, "label", {0: "negative", 1: "neutral", 2: "positive"}),
        (finance.TFNS, TFNS, "label", {0: "negative", 1: "positive", 2: "neutral"}),
        (
            finance.FIQA,
            FIQA,
            "sentiment_score",
            {-1: "negative", -0.101: "negative", -0.1: "neutral", 0.099: "neutral", 0.1: "positive", 1: "positive"},
        ),
        (
            finance.NWGI,
            NWGI,
            "label",
            {
                "strong negative": "negative",
                "moderately negative": "negative",
                "mildly negative": "neutral",
                "neutral": "neutral",
                "mildly positive": "neutral",
                "moderately positive": "positive",
                "strong positive": "positive",
            },
        ),
    ],
)
def test_labels_scores_and_the_seven_answers_become_three(task, row, column, golds):
    questions = task.questions([row | {column: value} for value in golds], [])
    assert [question.gold for question in questions] == list(golds.values())


@pytest.mark.parametrize(
    ("text", "by_rule", "found"),
    [
        ("positive", "positive", True),
        ("Negative.", "negative", True),
        ("neutral", "neutral", True),
        ("NEUTRAL", "neutral", True),
        ("negative, not positive", "positive", True),  # positive is looked for first
        ("neutral or negative", "negative", True),
        ("POSITIVE", "neutral", False),  # FinGPT's rule does not know it; and it is not taken for neutral in silence
        ("It rose.", "neutral", False),
        ("", "neutral", False),
    ],
)
def test_the_answer_rule(text, by_rule, found):
    assert (finance.sentiment(text), finance.says_something(text)) == (by_rule, found)


def test_figures_by_hand():
    """Gold + + + − − n; answers: positive, Positive, "?", negative, positive, "hm".

    By FinGPT's rule + + n − + n: 4 of 6 right. Two without a word; the last is right by the rule, so strictly 3 of 6.
    F1: + right 2, gold 3, predicted 3: 4/6. − 1, 2, 1: 2/3. n 1, 1, 2: 2/3. All are 2/3, and so are both means.
    """
    golds = ["positive"] * 3 + ["negative"] * 2 + ["neutral"]
    texts = ["positive", "Positive", "?", "negative", "positive", "hm"]
    assert metrics_of(finance.FPB, golds, texts) == pytest.approx(
        {"accuracy": 4 / 6, "weighted F1": 2 / 3, "macro F1": 2 / 3, "strict accuracy": 0.5, "no answer found": 2}
    )
    assert metrics_of(flowertune_finance.FPB, golds, texts) == pytest.approx({"accuracy": 4 / 6, "no answer found": 2})


def test_weighted_f1_by_hand():
    """Gold + + + −; predicted + + + +. + right 3, gold 3, predicted 4: 6/7. − 0. "neutral" is nowhere.

    Weighted (3 · 6/7 + 1 · 0) / 4 = 9/14; macro (6/7 + 0) / 2 = 3/7.
    """
    figures = metrics_of(finance.TFNS, ["positive"] * 3 + ["negative"], ["positive"] * 4)
    assert (figures["weighted F1"], figures["macro F1"]) == pytest.approx((9 / 14, 3 / 7))


def test_a_class_that_is_only_predicted_lowers_macro_f1_alone():
    """Gold + −; predicted + n. + 1; − 0; n right 0, gold 0, predicted 1: 0. Weighted (1 + 0) / 2, macro 1/3."""
    figures = metrics_of(finance.TFNS, ["positive", "negative"], ["positive", "neutral"])
    assert (figures["weighted F1"], figures["macro F1"]) == pytest.approx((1 / 2, 1 / 3))


def test_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    golds, texts = (rng.choice(finance.ANSWERS, 50, p=[0.6, 0.3, 0.1]).tolist() for _ in range(2))
    figures = metrics_of(finance.FPB, golds, texts)
    for name in ("weighted", "macro"):
        assert figures[f"{name} F1"] == pytest.approx(f1_score(golds, texts, average=name))


def test_mild_answers_are_counted_where_seven_are_known():
    """ "mildly positive" is positive by FinGPT's rule, though such a right answer is neutral: wrong, and counted."""
    golds = [question.gold for question in finance.NWGI.questions([NWGI] * 4, [])]
    texts = ["mildly positive", "Mildly negative", "It is mildly positive.", "neutral"]
    figures = metrics_of(finance.NWGI, golds, texts)
    assert (figures["accuracy"], figures['answers with "mildly"'], figures["no answer found"]) == (0.25, 3, 0)
    assert 'answers with "mildly"' not in metrics_of(finance.FPB, golds, texts)


@pytest.mark.parametrize(
    ("part", "size", "share"),
    [
        (finance.FPB_PART, 1212, None),  # a quarter is the default of train_test_split
        (finance.FIQA_PART, 275, 0.226),
        (flowertune_finance.FIQA_PART, 304, 0.25),
    ],
)
def test_a_drawn_part_is_that_of_train_test_split(part, size, share):
    from datasets import Dataset

    rows = Dataset.from_dict({"place": range(part.complete)})
    assert part.places() == rows.train_test_split(share, seed=42)["test"]["place"][:]
    assert part.size == size


def test_of_a_complete_set_the_test_part_is_asked():
    """FiQA: 275 of 1,213 and, for FlowerTune, 304, of which they are the first. Scores are 1, so all are positive."""
    rows = [FIQA | {"sentence": f"Profit {number}."} for number in range(1213)]
    fingpt, flower = (task.questions(rows, []) for task in (finance.FIQA, flowertune_finance.FIQA))
    assert (len(fingpt), len(flower)) == (275, 304)
    assert flower[:275] == fingpt
    numbers = [int(re.search(r"Profit (\d+)", question.text)[1]) for question in fingpt]
    assert numbers == finance.FIQA_PART.places()
    assert len(finance.FPB.questions([FPB] * 4846, [])) == len(flowertune_finance.FPB.questions([FPB] * 4846, []))


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (finance.FIQA, [FIQA] * 275),
        (finance.FIQA, [OWN] * 1213),
        (flowertune_finance.FIQA, [FIQA] * 304),
        (finance.TFNS, [TFNS] * 3000),
    ],
)
def test_a_test_part_rows_of_fingpts_form_and_sets_with_a_test_split_are_asked_whole(task, rows):
    assert len(task.questions(rows, [])) == len(rows)


@pytest.mark.parametrize("count", [276, 1212, 1214])
def test_rows_that_are_neither_complete_nor_a_test_part_are_refused(count):
    message = f"fiqa: {count:,} rows are neither the complete set of 1,213, of which 275 .* pauri32/fiqa-2018 whole"
    with pytest.raises(DataError, match=message):
        finance.FIQA.questions([FIQA] * count, [])


@pytest.mark.parametrize(
    ("task", "row", "change", "message"),
    [
        (finance.FPB, FPB, {"sentence": None}, 'fpb, row 2: there is no column "sentence" or "text"'),
        (finance.FPB, FPB, {"label": 3}, 'fpb, row 2, column "label": 3 is none of 0 negative, 1 neutral, 2 positive'),
        (finance.FPB, FPB, {"label": -1}, "-1 is none of 0 negative"),
        (finance.FPB, FPB, {"label": True}, 'row 2, column "label": True is none of'),
        (finance.FPB, FPB, {"label": float("nan")}, 'row 2, column "label": nan is none of'),
        (finance.FPB, OWN, {"output": "mildly positive"}, "row 2, column \"output\": 'mildly positive' is none of"),
        (finance.FPB, OWN, {"input": " "}, 'row 2, column "input": a text is needed'),
        (finance.FPB, OWN, {"instruction": None}, 'row 2: there is no column "instruction"'),
        (finance.FPB, OWN, {"output": None}, 'row 2: there is no column "output"'),
        (finance.FIQA, FIQA, {"sentiment_score": None}, 'fiqa, row 2: there is no column "sentiment_score"'),
        (finance.FIQA, FIQA, {"sentiment_score": "high"}, "'high' is no number from -1 to 1"),
        (finance.FIQA, FIQA, {"sentiment_score": float("nan")}, "nan is no number from -1 to 1"),
        (finance.FIQA, FIQA, {"sentiment_score": 2}, "2 is no number from -1 to 1"),
        (finance.FIQA, FIQA, {"sentiment_score": True}, "True is no number from -1 to 1"),
        (finance.FIQA, FIQA, {"format": None}, 'fiqa, row 2: there is no column "format"'),
        (finance.TFNS, TFNS, {"text": None}, 'tfns, row 2: there is no column "text"'),
        (finance.TFNS, TFNS, {"label": 3}, "3 is none of 0 negative, 1 positive, 2 neutral"),
        (finance.NWGI, NWGI, {"news": None}, 'nwgi, row 2: there is no column "news"'),
        (finance.NWGI, NWGI, {"label": "positive"}, "'positive' is none of strong negative, moderately negative"),
    ],
)
def test_a_row_that_lacks_something_is_named(task, row, change, message):
    with pytest.raises(DataError, match=re.escape(message)):
        task.questions([row, row | change], [])


def test_the_published_file_of_sentences(tmp_path):
    """It is in ISO 8859-1, where byte 85 is no end of a line; a sentence may hold an "@"."""
    path = tmp_path / "fpb" / "Sentences_50Agree.txt"
    path.parent.mkdir()
    path.write_bytes(b"EUR 5 @ 6 rose .@positive\r\nK\xe4\x85 fell .@negative\r\n")
    rows = open_rows(finance.FPB_TEST, tmp_path)
    assert [question.gold for question in finance.FPB.questions(rows, [])] == ["positive", "negative"]
    assert [row["sentence"] for row in rows] == ["EUR 5 @ 6 rose .", "K\xe4\x85 fell ."]
    path.write_bytes(b"It rose .@positive\nIt fell .\n")
    with pytest.raises(DataError, match="Sentences_50Agree.txt, line 2: a sentence"):
        open_rows(finance.FPB_TEST, tmp_path)


def test_the_splits_of_fiqa_are_read_one_after_the_other(tmp_path):
    folder = tmp_path / "fiqa"
    folder.mkdir()
    for name in ("test", "train", "validation"):
        (folder / f"{name}.csv").write_text(f"sentence,sentiment_score,format\n{name},0.3,post\n")
    assert [row["sentence"] for row in open_rows(finance.FIQA_TEST, tmp_path)] == ["train", "validation", "test"]


@pytest.mark.parametrize(("test", "split"), [(finance.TFNS_TEST, "validation"), (finance.NWGI_TEST, "test")])
def test_of_a_set_with_a_test_part_that_part_is_read(test, split, tmp_path):
    """Of FinGPT's choice: the set's other rows are for training."""
    (tmp_path / test.name).mkdir()
    for name in ("test", "train", "validation"):
        (tmp_path / test.name / f"{name}.csv").write_text(f"text,label\n{name},1\n")
    assert [row["text"] for row in open_rows(test, tmp_path)] == [split]


@pytest.mark.parametrize(
    ("suite", "sizes"),
    [
        ("finance", {"fpb": 606, "fiqa": 118, "tfns": 1194, "nwgi": 2024}),
        ("flowertune-finance", {"fpb": 606, "fiqa": 118, "tfns": 1194}),
    ],
)
def test_the_real_files(suite, sizes):
    """Halves of the test parts, in FinGPT's form. NWGI: 398 negative, 855 neutral, 771 positive, of seven answers:
    28 + 370, 272 + 258 + 325, 747 + 24."""
    if not (SHARED_DATA / "finance").is_dir():
        pytest.skip("the finance sets are not among the shared data")
    tasks = load_suite(suite).tasks
    opened = open_all(tasks, SHARED_DATA)
    questions = {task.name: task.questions(opened.rows[task.test.name], []) for task in tasks}
    assert {name: len(those) for name, those in questions.items()} == sizes
    assert opened.notes["fpb"] == "fpb: 606 of the 1,212 published rows"
    if "nwgi" in sizes:
        golds = Counter(question.gold for question in questions["nwgi"])
        assert golds == {"negative": 398, "neutral": 855, "positive": 771}


def test_what_is_missing_names_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingSets, match="Sentences_50Agree.txt.*FinancialPhraseBank-v1.0.zip"):
        open_all([finance.FPB], tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("finance", {"accuracy, first three": 2 / 3, "accuracy, all four": 1 / 2}),
        ("flowertune-finance", {"average": 2 / 3}),
    ],
)
def test_the_averages(name, expected):
    """Accuracies 1, 0, 1 and, for NWGI, 0: first three 2/3, all four 1/2; of FlowerTune's three sets 2/3."""
    suite = load_suite(name)
    sets = []
    for task, text in zip(suite.tasks, ["positive", "negative", "positive", "neutral"], strict=False):
        questions, answers = [Question("q", gold="positive")] * 2, [Answer((text,))] * 2
        grades = task.grade(questions, answers, Means())
        result = TaskResult(task, questions, {"m": answers}, {"m": grades}, "plain", (), {"m": 1.0}, seed=0)
        sets.append(TaskFigures(result))
    averages = {figure.metric: figure.value for figure in averages_of(suite.averages, sets)}
    assert {key: averages[key] for key in expected} == pytest.approx(expected)


def test_which_figures_the_averages_are_of():
    of = {average.name: average.of for average in load_suite("finance").averages}
    for metric in ("accuracy", "weighted F1", "macro F1"):
        assert of[f"{metric}, first three"] == tuple((name, metric) for name in ("fpb", "fiqa", "tfns"))
        assert of[f"{metric}, all four"] == tuple((name, metric) for name in ("fpb", "fiqa", "tfns", "nwgi"))
    assert len(of) == 6


def test_how_answers_come_about():
    for task in load_suite("finance").tasks:
        assert (task.template, task.ask) == ("plain", Generate(32, stops=("Answer: ",)))
    for task in load_suite("flowertune-finance").tasks:
        assert (task.template, task.ask) == ("plain", Generate(512, stops=("Answer: ",), total_tokens=512))
        assert [metric.name for metric in task.metrics] == ["accuracy", UNREAD.name]
