"""Metrics of the same names in all replies: Flower's own strategies insist on that, and one reply would end the run."""

from collections.abc import Iterable

from flwr.app import Message, MetricRecord


def with_common_metrics(replies: Iterable[Message]) -> list[Message]:
    """All replies, each with those of its metrics that every one of them carries, in place.

    Replies that agree, as those of one version of the app do, stay as they are.
    """
    replies = list(replies)
    records = [
        (reply, name, record)
        for reply in replies
        for name, record in reply.content.items()
        if isinstance(record, MetricRecord)
    ]
    names = set.intersection(*(set(record) for _, _, record in records)) if records else set()
    for reply, key, record in records:
        if set(record) != names:
            reply.content[key] = MetricRecord({name: record[name] for name in record if name in names})
    return replies
