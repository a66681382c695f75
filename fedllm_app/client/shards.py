"""One client's rows as tokens: found, tokenized on first use, kept on disk."""

from pathlib import Path

import numpy as np

from fedllm_app.client.policy import check_pooling
from fedllm_app.data.client_rows import ClientData, DataSelection, Rows, client_data, common_test_rows
from fedllm_app.data.order import batches, walk
from fedllm_app.data.row_shards import AnyShard, ShardMaker, join_rows
from fedllm_app.data.shards import EmptyShard
from fedllm_app.data.sources import TooManyBadRows
from fedllm_app.data.templates import template_source
from fedllm_app.data.tokenization import Tokenization
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.training.resident import Resident
from fedllm_app.training.task import ClientShards

_OPEN = 16  # clients whose shards stay open; tokens are mapped from disk, so that these are places in files


class ShardStore:
    """The shards of a run's clients in this process."""

    def __init__(self, selection: DataSelection, tokenization: Tokenization) -> None:
        self.selection, self.tokenization = selection, tokenization

    def client(self, client: int, model: Resident) -> ClientShards:
        """The shards of a client."""
        key = (self.selection, self.tokenization, model.key, client)
        return PROCESS_CACHE.get("client shards", key, lambda: self._make(client, model), keep=_OPEN)

    def test(self, model: Resident) -> ClientShards | None:
        """The common test set, as held-out rows; None if there is none."""
        data = common_test_rows(self.selection)
        if data is None:
            return None
        key = (self.selection, self.tokenization, model.key)
        return PROCESS_CACHE.get("test shards", key, lambda: self._test(data, model))

    def pooled(self, model: Resident) -> ClientShards:
        """The rows of all clients, as if one owned them. SiteRefuses at a site with rows of its own."""
        check_pooling(self.selection)
        key = (self.selection, self.tokenization, model.key)
        return PROCESS_CACHE.get("pooled shards", key, lambda: self._pool(model))

    def _make(self, client: int, model: Resident) -> ClientShards:
        data = client_data(self.selection, client)
        key = self._key(data, model)
        maker = ShardMaker(model.tokenizer, self.tokenization, key, model.stops)
        train = maker.make("train", self.selection.rows, data.train)
        if not len(train):
            raise EmptyShard(_nothing_left(train, data.train, self.tokenization))
        held_out = maker.make("held-out", self.selection.rows, data.held_out)
        model.check_ids(max(train.largest_id, held_out.largest_id))
        template = self.tokenization.template
        refused = _first_refused(data.train, train, template) or _first_refused(data.held_out, held_out, template)
        shards = ClientShards(
            data.label,
            data.schema,
            f"{key}",
            train,
            held_out,
            data.bad,
            data.duplicates,
            data.notes,
            refused,
            data.public_notes,
        )
        # Of the set's rows only this client's are known here: the share may be larger, not smaller.
        unusable, share = data.bad + shards.refused, self.selection.max_bad_share
        if shards.refused and unusable > share * data.set_rows:
            told = (
                f"{unusable} of the {data.set_rows} rows of its data cannot be used, more than data.max-bad-share = "
                f"{share}: the template refuses {shards.refused} of them, the first is {refused}. Repair them, choose "
                "another data.template, or raise data.max-bad-share"
            )
            raise TooManyBadRows(told, public=told)
        return shards

    def _test(self, data: ClientData, model: Resident) -> ClientShards:
        key = self._key(data, model)
        maker = ShardMaker(model.tokenizer, self.tokenization, key, model.stops)
        train = maker.make("test-train", self.selection.rows, data.train)
        held_out = maker.make("test", self.selection.rows, data.held_out)
        if not len(held_out):
            told = "holds no row that fits train.max-length"
            raise EmptyShard(f"data.test = {self.selection.test!r} {told}", public=f"data.test {told}")
        return ClientShards(data.label, data.schema, f"{key}", train, held_out)

    def _pool(self, model: Resident) -> ClientShards:
        clients = [self.client(client, model) for client in range(self.selection.clients)]
        train = join_rows([shards.train for shards in clients])
        held_out = join_rows([shards.held_out for shards in clients])
        return ClientShards("pooled", clients[0].schema, " ".join(shards.key for shards in clients), train, held_out)

    def _key(self, data: ClientData, model: Resident) -> list:
        tokens = self.tokenization
        template = template_source(tokens.template) or tokens.template
        choices = [tokens.system_prompt, tokens.max_length, tokens.special_tokens_in_text, tokens.learn_turns]
        return [model.tokenizer_hash, model.stops, data.fingerprint, template, *choices]


def _first_refused(rows: Rows, shard: AnyShard, template: str) -> str:
    """The first row that cannot be written as tokens, and why; "" if there is none.

    It is told to the server, so the path of a template is left out.
    """
    first = next((f"row {rows.number(place)}: {reason}" for place, reason in shard.refused.first), "")
    return first.replace(template, "of a file") if Path(template).is_absolute() else first


def _nothing_left(shard: AnyShard, rows: Rows, tokenization: Tokenization) -> str:
    """Why no row is left to train on."""
    max_length, refused = tokenization.max_length, _first_refused(rows, shard, tokenization.template)
    reasons = (
        (shard.dropped, f"leave no room for a completion within train.max-length = {max_length} tokens"),
        (shard.refused.count, f"are refused by the template, the first is {refused}"),
        (shard.equal, f"are pairs whose answers are equal within train.max-length = {max_length} tokens"),
    )
    told = "; ".join(f"{count} {reason}" for count, reason in reasons if count)
    return f"none of its {len(rows)} training rows can be used: {told}"


def round_indices(
    shards: ClientShards,
    *,
    client: int,
    clients: int,
    pooled: bool,
    seed: int,
    steps: int,
    per_step: int,
    batch: int,
    count: int,
) -> np.ndarray:
    """The examples of a client's next round, batch by batch.

    Parameters
    ----------
    steps : int
        Optimizer steps that the client has taken before.
    per_step, batch, count : int
        Examples of an optimizer step, of a batch, and of the round.
    """
    # The pool of all clients is nobody's shard.
    walker = clients if pooled else client
    order = walk(len(shards.train), walker, seed, steps * per_step, count)
    return np.concatenate(list(batches(order, shards.train.lengths, batch, [seed, 4, walker, steps])))
