"""What autograd keeps of a forward pass, for tests of memory."""

from collections.abc import Callable

import torch


def kept_bytes(model: torch.nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the storages that autograd saves while `forward` is called, each once, without the model's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = forward()
    total = sum(storage.nbytes() for storage in storages.values())
    del output
    return total
