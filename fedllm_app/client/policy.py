"""What a site may refuse, whatever the server asks."""

from fedllm_app.data.client_rows import DataSelection
from fedllm_app.errors import UserError


class SiteRefuses(UserError):
    """The site refuses what the run asks for."""


def check_pooling(selection: DataSelection) -> None:
    """Refuse to train on the rows of all as if one client owned them, at a site that has rows of its own."""
    if selection.whole:
        raise SiteRefuses(
            "strategy.name = 'centralized' trains one client on everybody's rows, and this site has rows of its own "
            "(node-config data-path), which no other has: choose another strategy"
        )
