"""Sentences that a user must see: in Flower's log and in the journal."""

from logging import WARNING

from flwr.supercore import log

from fedllm_app.runs.directory import RunDirectory


def warn(directory: RunDirectory, *notes: str | None) -> None:
    """Log and journal the sentences that there are."""
    for note in filter(None, notes):
        log(WARNING, note)
        directory.journal("warning", reason=note)
