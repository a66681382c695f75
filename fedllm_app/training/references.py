"""Log-probabilities of the fixed reference policy, computed once and kept on the client's disk."""

import hashlib

import numpy as np
import torch

from fedllm_app.messages import HOME, REFERENCE
from fedllm_app.paths import home
from fedllm_app.training.client_state import load_array, save_array
from fedllm_app.training.task import Job

_TRL_REFERENCE = "ref"


class ReferenceCache:
    """Reference log-probabilities of a shard's completions, on disk, computed as they are needed and never twice.

    The reference policy is fixed for the run, so a value depends on the model, the reference adapter and the tokens
    only. All of these must be in `key_parts`; a resumed run, and another run from the same start, find it again.

    Attributes
    ----------
    values : np.ndarray
        Shape (rows, columns): a column a completion of a row; NaN marks what was not computed yet.
    """

    def __init__(self, key_parts: list[str], rows: int, columns: int = 2) -> None:
        key = hashlib.sha256("\n".join(key_parts).encode()).hexdigest()[:32]
        self.path = home() / "references" / f"{key}.npy"
        loaded = load_array(self.path)
        self.values = np.full((rows, columns), np.nan) if loaded is None else loaded

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of `indices` whose values are not here."""
        return np.unique(indices[np.isnan(self.values[indices, 0])])

    def put(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Add values, shape (len(indices), columns), and write all of them."""
        self.values[indices] = values
        save_array(self.path, self.values)


def reference_cache(job: Job, part: str, columns: int) -> ReferenceCache:
    """The cache of a part ("train", "held-out") of a job's shards, with so many completions a row."""
    # Threads and dtype change the last bits of a log-probability.
    numerics = f"{job.model.model.dtype}/{torch.get_num_threads()}"
    shard = job.shards.train if part == "train" else job.shards.held_out
    once = job.assignment.once
    # Factors that stay at home belong to the reference policy. Without a starting adapter it is the base alone.
    policy = once[REFERENCE] + once.get(HOME, "") if REFERENCE in once else ""
    parts = [str(job.model.key), numerics, policy, f"{part}/{columns}", job.shards.key]
    return ReferenceCache(parts, len(shard), columns)


class ReferenceFromBatch:
    """Mixed into a TRL trainer, before TRL's class: the reference's log-probabilities come with the batch.

    Given a PEFT model, TRL copies the adapter that it finds at construction into a second one, `ref`, which in a later
    round would be that round's global model. That copy is removed.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if _TRL_REFERENCE in self.model.peft_config:
            self.model.delete_adapter(_TRL_REFERENCE)
        # Asked for at construction, TRL would hash the whole model and compute the values of a placeholder.
        self.precompute_ref_logps = True
