"""A row as the schema that is recognised reads it."""

from fedllm_app.data.schemas import Columns, recognise


def convert(row, rows="example", **columns):
    return recognise(row.keys(), rows, Columns(**columns)).convert(row)


def user(text):
    return (("user", text),)
