"""The seeded choice of clients: same seed, same clients, whatever node ids Flower drew for this run."""

import numpy as np


def choose_clients(number: int, per_round: int, seed: int, server_round: int) -> list[int]:
    """The clients of a round, ascending: `per_round` of 0..number-1 without replacement, all if `per_round` is 0.

    The draw depends on the experiment's seed and on the round, so that another seed meets other clients and a resumed
    run meets the same ones.
    """
    if per_round == 0 or per_round >= number:
        return list(range(number))
    random = np.random.default_rng([seed, 1, server_round])
    return sorted(int(client) for client in random.choice(number, per_round, replace=False))


def learning_rate(maximum: float, minimum: float, server_round: int, rounds: int) -> float:
    """Cosine across rounds: round 1 gets `maximum`, the last exactly `minimum`, constant within a round.

    With one round only, that round gets `maximum`.
    """
    if rounds == 1:
        return maximum
    progress = (server_round - 1) / (rounds - 1)
    return minimum + 0.5 * (maximum - minimum) * (1.0 + float(np.cos(np.pi * progress)))
