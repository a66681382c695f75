"""The directory of a report."""

from fedllm_app.evaluation.saved import file_names


def test_every_title_has_a_file_name_of_its_own():
    """Of letters, digits, dots and hyphens, none of which lead to another folder."""
    titles = ["rows.jsonl", "rows.jsonl", "a b", "a_b", "..", "../x", "", "rows.jsonl"]
    names = ["rows.jsonl", "rows.jsonl-2", "a_b", "a_b-2", "_", "_x", "_-2", "rows.jsonl-3"]
    assert file_names(titles) == names
