"""What a client keeps on its own disk between rounds, because Flower's context loses large values without a word.

Everything lies below one directory a run and client, written atomically. What must match what the server knows is kept
by version, so that state that was lost or is older than the server's is noticed.
"""

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
            number = other.stem.removeprefix(f"{name}-")  # no number: a version of an array with a longer name
            if number.isdecimal() and int(number) not in (version, keep):
                other.unlink(missing_ok=True)

    def kept(self, name: str) -> np.ndarray | None:
        """An array that the server sent once, if it did."""
        path = self.directory / f"{name}.npy"
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def keep(self, name: str, array: np.ndarray) -> None:
        """Keep an array that the server sends once."""
        save_array(self.directory / f"{name}.npy", array)

    def _path(self, name: str, version: int) -> Path:
        return self.directory / f"{name}-{version}.npy"


class RoundState:
    """The state of one client as one step of one round sees it: what was valid after its last accepted reply.

    Parameters
    ----------
    version : int
        The round of the client's last reply that the server accepted (0: none).
    server_round : int
        This round; what is saved is valid once the server accepts its reply.
    """

    def __init__(self, state: ClientState, version: int, server_round: int) -> None:
        self.state, self.version, self.server_round = state, version, server_round

    @property
    def expected(self) -> bool:
        """Whether the client trained before, so that its state should be here."""
        return self.version > 0

    def load(self, name: str) -> np.ndarray | None:
        """The array as it was after the last accepted reply; None if it is not here."""
        return self.state.load_version(name, self.version)

    def save(self, name: str, array: np.ndarray) -> None:
        """Keep an array under this round."""
        self.state.save_version(name, self.server_round, array, keep=self.version)
