"""Which values may differ when a run is resumed: those that do not change what is computed."""

from fedllm_app.config.sections import FlatConfig

MAY_CHANGE = frozenset(
    {
        "train.rounds",
        "model.device-map",
        "run.fetch",
        "run.fetch-checkpoints",
        "run.resume",
        "run.directory",
        "run.checkpoint-every",
        "run.wait-timeout",
        "run.describe-timeout",
        "run.round-timeout",
        "clients.minimum",
        "clients.enough",
        "clients.grace",
        "clients.too-few",
        "clients.retries",
        "clients.describe",
        "tracking.backend",
        "tracking.project",
    }
)


def refused_changes(recorded: FlatConfig, now: FlatConfig) -> list[str]:
    """A sentence for each value that differs from the recorded one and must not.

    A key that the recorded configuration lacks is of a later version of the app, and no difference.
    """
    different = sorted(key for key, value in recorded.items() if key not in MAY_CHANGE and now.get(key, value) != value)
    return [
        f"{key} = {now[key]!r}: the run that is resumed has {recorded[key]!r}; give the same, or start a new run"
        for key in different
    ]
