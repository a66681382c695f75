"""Whether all clients have the same base: its weights never travel, so only their hashes tell."""

from collections.abc import Mapping

from fedllm_app.messages import ClientHolding

_WHAT = {"base": "weights of the base model", "tokenizer": "tokenizer"}
_SHOWN = 12  # digits of a hash
_NAMED = 8  # clients of one group


def base_problem(holdings: Mapping[int, ClientHolding]) -> str | None:
    """A sentence that says who has which base weights or tokenizer where they differ, None where they do not.

    A client that does not know its hashes is held against nobody.
    """
    problems = []
    for field, what in _WHAT.items():
        groups: dict[str, list[str]] = {}
        for client, holding in sorted(holdings.items()):
            if digest := getattr(holding, field):
                groups.setdefault(digest, []).append(f"{client} {holding.name}")
        if len(groups) > 1:
            sorted_groups = sorted(groups.items(), key=lambda group: -len(group[1]))
            named = "; ".join(f"{_listed(clients)}: {digest[:_SHOWN]}" for digest, clients in sorted_groups)
            problems.append(f"the clients have different files of the {what} ({named})")
    if not problems:
        return None
    return (
        f"{', and '.join(problems)}. All must train on the same base: copy one site's files of model.name to the "
        "others, or name a revision that all have"
    )


def _listed(clients: list[str]) -> str:
    more = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
    return f"client{'s' if len(clients) > 1 else ''} {', '.join(clients[:_NAMED])}{more}"
