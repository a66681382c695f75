"""A run's numbers on the page of an experiment tracker: TensorBoard, Weights & Biases, MLflow or Trackio.

The journal stays the source of truth. Trackers are fed from its events, on the server only, by the classes of
accelerate, and one that fails is told once and let go.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.config.sections import FlatConfig, TrackingConfig
from fedllm_app.errors import UserError
from fedllm_app.runs.directory import RunDirectory

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

FOLDER = "tracking"
"""In a run directory: what TensorBoard reads, and what the others write to this machine."""

_ALL = ("round", "evaluation", "suite", "checkpoint")  # events of the whole run
_OF_CLIENTS = ("client", "client-evaluation")
_NO_NUMBERS = ("time", "round", "client")


class NoTracker(UserError):
    """The package of the tracker is not installed."""


def check_tracking(config: TrackingConfig) -> None:
    """Refuse a tracker that cannot work on this machine, which is the server's. `NoTracker` says what to install."""
    if config.backend != "none" and importlib.util.find_spec(config.backend) is None:
        raise NoTracker(
            f"tracking.backend = {config.backend!r}: the package {config.backend} is not installed on the server's "
            f"machine; pip install {config.backend}, or set tracking.backend = 'none'"
        )


@contextmanager
def tracked(directory: RunDirectory, config: TrackingConfig, flat: FlatConfig) -> Iterator[None]:
    """Within its block the events of a run reach the tracker as well.

    Parameters
    ----------
    flat : FlatConfig
        Kept by the tracker as the run's settings.
    """
    if config.backend == "none":
        yield
        return
    check_tracking(config)
    tracking, tell = _Tracking(directory), directory.tell

    def both(event: Mapping[str, object]) -> None:
        tell(event)
        tracking.event(event)

    with tracking.guarded():
        tracking.tracker = _tracker(config, directory.path)
        tracking.tracker.start()
        tracking.tracker.store_init_configuration(dict(flat))
    directory.tell = both
    try:
        yield
    finally:
        directory.tell = tell
        tracking.finish()


def scalars(event: Mapping[str, object]) -> dict[str, float]:
    """The numbers of an event by their names on a tracker's page; of an event that is none of a round, {}."""
    kind = event.get("event")
    if kind in _OF_CLIENTS:
        place = f"client-{event['client']}-{event['name']}"
        place += "/evaluation" if kind == "client-evaluation" else ""
    elif kind in _ALL:
        place = str(kind)
    else:
        return {}
    figures = event.get("figures")
    fields = {**event, **figures} if isinstance(figures, Mapping) else event
    return {
        f"{place}/{name}": float(value)
        for name, value in fields.items()
        if name not in _NO_NUMBERS and isinstance(value, int | float) and not isinstance(value, bool)
    }


class _Tracking:
    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.tracker: GeneralTracker | None = None

    def event(self, event: Mapping[str, object]) -> None:
        values = scalars(event)
        if self.tracker is not None and values:
            with self.guarded():
                self.tracker.log(values, step=int(event["round"]))

    def finish(self) -> None:
        if self.tracker is not None:
            with self.guarded():
                self.tracker.finish()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Whatever a tracker raises ends the tracking and not the run."""
        try:
            yield
        except Exception as error:
            self.tracker = None
            reason = f"the run goes on without its tracker, which failed: {type(error).__name__}: {error}"
            self.directory.journal("warning", reason=reason)


def _tracker(config: TrackingConfig, run: Path) -> "GeneralTracker":
    """accelerate's tracker of a backend; what it keeps on this machine lies in the run directory.

    Trackio's lies in its own, where its pages show the runs of a project together.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # what accelerate's logger asks for, and a server that trains nothing has not
    make, folder = LOGGER_TYPE_TO_CLASS[config.backend], run / FOLDER
    folder.mkdir(exist_ok=True)
    if config.backend == "tensorboard":
        return make(run.name, logging_dir=folder)
    if config.backend == "mlflow":
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return make(config.project, logging_dir=str(folder / "artifacts"), run_name=run.name)
    if config.backend == "wandb":
        return make(config.project, name=run.name, dir=str(folder))
    return make(config.project, name=run.name)
