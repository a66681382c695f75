"""Fixtures of this room: runs whose words are markup."""

from evil_runs import evaluation, evil_runs

__all__ = ["evaluation", "evil_runs"]
