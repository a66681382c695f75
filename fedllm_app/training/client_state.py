"""What a client keeps on its own disk between rounds, because Flower's context loses large values without a word.

Everything lies below one directory a run and client, written atomically. What must match what the server knows is kept
by version, so that state that was lost or is older than the server's is noticed.
"""

import hashlib
from pathlib import Path

import numpy as np

from fedllm_app.paths import atomic_path, home


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


class ClientState:
    """The files of one client in one run."""

    def __init__(self, run_id: int, client: int) -> None:
        self.directory = home() / "clients" / str(run_id) / f"client-{client}"

    def load_version(self, name: str, version: int) -> np.ndarray | None:
        """The array `name` as it was after `version`, or None if it is not here."""
        path = self._path(name, version)
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def save_version(self, name: str, version: int, array: np.ndarray, keep: int) -> None:
        """Keep the array `name` as `version`, and of the older ones only `keep`.

        The one before stays, because the server may never accept the reply that goes with the new one; then the next
        message names the old version again.
        """
        save_array(self._path(name, version), array)
        for other in self.directory.glob(f"{name}-*.npy"):
            if other not in (self._path(name, version), self._path(name, keep)):
                other.unlink(missing_ok=True)

    def reference(self) -> np.ndarray | None:
        """The adapter of the reference policy that the server sent, if it did."""
        path = self.directory / "reference.npy"
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def save_reference(self, adapter: np.ndarray) -> None:
        """Keep the adapter of the reference policy."""
        save_array(self.directory / "reference.npy", adapter)

    def _path(self, name: str, version: int) -> Path:
        return self.directory / f"{name}-{version}.npy"


class ReferenceCache:
    """Reference log-probabilities of a shard's pairs, on disk, computed as they are needed and never twice.

    The reference policy is fixed for the run, so a value depends on the model, the reference adapter and the tokens
    only. All of these must be in `key_parts`; a resumed run, and another run from the same start, find it again.
    """

    def __init__(self, key_parts: list[str], pairs: int) -> None:
        key = hashlib.sha256("\n".join(key_parts).encode()).hexdigest()[:32]
        self.path = home() / "references" / f"{key}.npy"
        loaded = np.load(self.path, allow_pickle=False) if self.path.is_file() else None
        # NaN marks what was not computed yet. Columns: chosen, rejected.
        self.values = np.full((pairs, 2), np.nan) if loaded is None else loaded

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of `indices` whose values are not here."""
        return np.unique(indices[np.isnan(self.values[indices, 0])])

    def put(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Add values, shape (len(indices), 2), and write all of them."""
        self.values[indices] = values
        save_array(self.path, self.values)
