"""Preference pairs: rewards, ties, and pairs that cannot be used."""

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.preferences import TASK, preference_task
from fedllm_app.evaluation.suite import Answer, Means, Question, ScorePair, TestSet

PAIR = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}


def asked(*rows):
    return TASK.questions(list(rows), [])


def values(*answers):
    questions = asked(PAIR) * len(answers)
    grades = TASK.grade(questions, list(answers), Means())
    return [value_of(metric, questions, grades) for metric in TASK.metrics]


def test_every_form_that_training_accepts_is_the_same_question():
    before = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
    last = {"role": "user", "content": "Three"}
    answers = [[{"role": "assistant", "content": text}] for text in ("Good", "Bad")]
    head = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    expected = Question(
        "Three",
        "Human: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:",
        choices=("Good", "Bad"),
        turns=(("user", "One"), ("assistant", "Two")),
    )
    for row in (
        {"chosen": f"{head} Good", "rejected": f"{head} Bad", "subset": "harmless"},
        {"prompt": [*before, last], "chosen": "Good", "rejected": "Bad"},
        {"chosen": [*before, last, *answers[0]], "rejected": [*before, last, *answers[1]]},
        {"prompt": (("user", "One"), ("assistant", "Two"), ("user", "Three")), "chosen": "Good", "rejected": "Bad"},
    ):
        assert asked(row) == [expected]
    assert TASK.ask == ScorePair()


def test_the_base_ties_with_itself():
    """Rewards are 0 and 0: half, margin 0. The chosen answer has -4 of 2 tokens, the other -3 of 1: less likely in sum,
    more likely per token (-2 and -3)."""
    base = Answer(log_likelihoods=(-4.0, -3.0), tokens=(2, 1), base_log_likelihoods=(-4.0, -3.0))
    assert values(base) == [0.5, 0.0, 0.0, 1.0]


def test_the_reward_is_a_tenth_of_the_log_ratio():
    """One: rewards 0.1 (-3 + 4) = 0.1 and 0.1 (-5 + 3) = -0.2: right, margin 0.3. Second: 0.1 (-6 + 4) = -0.2 and 0:
    wrong, margin -0.2. Means: 0.5 and 0.05. In sum -3 > -5 and -6 < -3; per token -1.5 > -5, -3 = -3: (1 + 0.5) / 2."""
    first = Answer(log_likelihoods=(-3.0, -5.0), tokens=(2, 1), base_log_likelihoods=(-4.0, -3.0))
    second = Answer(log_likelihoods=(-6.0, -3.0), tokens=(2, 1), base_log_likelihoods=(-4.0, -3.0))
    assert values(first, second) == [0.5, pytest.approx(0.05), 0.5, 0.75]
    assert values(first)[:2] == [1.0, pytest.approx(0.3)]


def test_a_pair_that_cannot_be_used_counts_in_no_figure_and_is_counted():
    """One row of 20 has two equal answers; 1/20 is accepted."""
    questions = asked(*[PAIR] * 19, PAIR | {"rejected": "Hello"})
    answer = Answer(log_likelihoods=(-1.0, -2.0), tokens=(1, 1), base_log_likelihoods=(-1.5, -1.5))
    grades = TASK.grade(questions, [answer] * 20, Means())
    assert [grade.missing for grade in grades[:19]] == [""] * 19
    assert grades[19].missing == "unusable pair: the chosen and the rejected answer are the same"
    assert value_of(TASK.metrics[0], questions, grades) == 1.0


def test_more_unusable_pairs_are_an_error_that_names_the_first():
    with pytest.raises(DataError, match=r"hh-rlhf: 2 of 20 rows .* row 19: column 'chosen'.*row 20"):
        asked(*[PAIR] * 18, *[PAIR | {"chosen": ""}] * 2)


def test_other_columns_are_no_pairs():
    with pytest.raises(DataError, match=r"mine: the columns \(answer, question\) fit no schema of pair rows"):
        preference_task(TestSet("mine", "", "", 1, "")).questions([{"question": "q", "answer": "a", "subset": "s"}], [])


def test_the_task_has_the_name_of_its_set():
    test = TestSet("mine", "", "", 1, "")
    assert (preference_task(test).name, preference_task(test).test) == ("mine", test)


@pytest.mark.skipif(not (SHARED_DATA / "hh-rlhf").is_dir(), reason="the shared hh-rlhf file is not here")
def test_the_shared_file_has_600_pairs_of_which_two_have_an_empty_answer():
    questions = asked(*open_rows(TASK.test, SHARED_DATA))
    answer = Answer(log_likelihoods=(-1.0, -2.0), tokens=(1, 1), base_log_likelihoods=(-1.0, -2.0))
    missing = [grade.missing for grade in TASK.grade(questions, [answer] * 600, Means()) if grade.missing]
    assert (len(questions), len(missing), len(set(missing))) == (600, 2, 1)
    assert "is empty" in missing[0]
