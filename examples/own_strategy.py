"""A strategy of your own: the mean of the products B A instead of the means of B and of A.

    PYTHONPATH=examples fedllm run . -c "strategy.name='own_strategy.ProductMean'"

`bind` gives a strategy the layout of the vector that travels, with the factors A and B of every module in it.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedllm_app.adapters.layout import Factors, Layout
from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.fedavg import FedAvg, reply_metric, reply_records


class ProductMean(FedAvg):
    """``B A ← Σ p_i B_i A_i``, cut to the rank of the adapter by SVD (FlexLoRA, Bai et al. 2024, arXiv:2402.11505).

    What is no factor of LoRA is averaged as FedAvg does. Signs and rotations of the factors change from round to round,
    so nothing can be added up by coordinate. The products, m × n, are never formed.
    """

    fixed_coordinates: ClassVar[bool] = False
    needs_single_replies: ClassVar[bool] = True

    def bind(self, layout: Layout) -> None:
        """Keep the layout; nothing was received yet."""
        self.layout, self.replies, self.kept = layout, [], []

    def aggregate_train(self, server_round: int, replies):
        """Forget what a round with too few replies has left."""
        self.replies = []
        return super().aggregate_train(server_round, replies)

    def round_numbers(self) -> dict[str, float]:
        """The share of energy, Σσ², that the last cut kept, the mean over the modules."""
        return {"kept-energy": float(np.mean(self.kept))} if self.kept else {}

    def _add_reply(self, reply: Message, means, metrics) -> None:
        super()._add_reply(reply, means, metrics)
        arrays, record = reply_records(reply)
        self.replies.append((reply_metric(record, self.weighted_by_key), arrays[ADAPTER].numpy()))

    def _server_step(self, x: NDArray[np.float64], means: Mapping) -> NDArray:
        tensors = self.layout.unpack(super()._server_step(x, means))
        total = sum(examples for examples, _ in self.replies)
        replies = [(examples / total, self.layout.unpack(vector)) for examples, vector in self.replies]
        self.replies, self.kept = [], []
        for factors in self.layout.factors():
            tensors[factors.b], tensors[factors.a], share = self._product(factors, replies)
            self.kept.append(share)
        return self.layout.pack(tensors)

    def _product(self, factors: Factors, replies: list) -> tuple[NDArray, NDArray, float]:
        """B, A and the kept share of Σσ². The scale alpha / r is the same for all clients and stays outside."""
        b = np.hstack([np.sqrt(weight) * tensors[factors.b] for weight, tensors in replies], dtype=np.float64)
        a = np.vstack([np.sqrt(weight) * tensors[factors.a] for weight, tensors in replies], dtype=np.float64)
        (q_b, r_b), (q_a, r_a) = np.linalg.qr(b), np.linalg.qr(a.T)
        u, sigma, vt = np.linalg.svd(r_b @ r_a.T)
        rank = len(replies[0][1][factors.a])
        root = np.sqrt(sigma[:rank])
        share = (sigma[:rank] ** 2).sum() / (sigma**2).sum() if sigma.any() else 1.0
        return q_b @ u[:, :rank] * root, root[:, None] * (vt[:rank] @ q_a.T), float(share)
