"""What tests of a judge ask, and what its ratings look like."""

from fedllm_app.evaluation.suite import Answer, Grade, Question

KEY = "sk-secret-0123456789"
NO_DIGITS = "I would rather not say."
VARIABLES = ("FEDLLM_JUDGE_URL", "FEDLLM_JUDGE_MODEL", "FEDLLM_JUDGE_KEY")


def one_turn(*names):
    """Questions and answers of one turn."""
    return [Question(f"question {name}?") for name in names], [Answer((f"answer {name}",)) for name in names]


def rated(rating, **more):
    return Grade({"turn 1": rating, "rating": rating, "missing ratings": 0.0, **more})
