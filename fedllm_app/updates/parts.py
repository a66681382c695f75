"""Parts of the vector that stay at home: which factors of LoRA travel, by `lora.aggregation`."""

from collections.abc import Callable

from fedllm_app.adapters.layout import Layout, is_a_factor

AGGREGATIONS: dict[str, Callable[[str], bool]] = {
    "factors": lambda name: True,
    "ffa": lambda name: not is_a_factor(name),
}
"""Which tensors are trained and travel, by name.

`factors` (FedIT, Zhang et al. 2023, arXiv:2305.05644) sends A and B and averages each; the mean of the products `B A`
is another matrix. `ffa` (FFA-LoRA, Sun et al. 2024, arXiv:2403.12313) keeps A as it was at the start, for all clients
alike, and trains B only: then the mean of B times A is the mean of the products, exactly, for half of the bytes.
"""


def travelling_part(layout: Layout, aggregation: str) -> Layout:
    """The layout of the vector that travels; equal to `layout` where everything does."""
    return layout.part(AGGREGATIONS[aggregation])


def home_part(layout: Layout, aggregation: str) -> Layout:
    """The layout of what stays at home, of size 0 where nothing does."""
    travels = AGGREGATIONS[aggregation]
    return layout.part(lambda name: not travels(name))
