"""The trained parameters of a PEFT model, read and written as one packed float32 vector."""

from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.adapters.layout import ENCODER, AdapterError, Manifest

if TYPE_CHECKING:
    import peft
    import torch


class AdapterView:
    """Reads and writes the adapter of a PEFT model, all its trained parameters, as one packed float32 vector.

    `parameters` are in the manifest's order.
    """

    def __init__(self, model: "peft.PeftModel") -> None:
        trained = {parameter.data_ptr(): parameter for parameter in model.parameters() if parameter.requires_grad}
        named = _named_tensors(model)
        if len(named) != len(trained):
            raise AdapterError(f"{len(trained)} tensors of the model are trained, its adapter has {len(named)}")
        # What PEFT names shares storage with the parameters. The parameters themselves are kept: a trainer may give
        # them other storage.
        self.parameters = [trained[tensor.data_ptr()] for tensor in named.values()]
        self.manifest = manifest_of(model)

    def write(self, vector: np.ndarray) -> None:
        """Load `vector` (shape (manifest.size,)) into the model."""
        import torch

        with torch.no_grad():
            for parameter, piece in zip(self.parameters, self.pieces(vector), strict=True):
                parameter.copy_(piece.view(parameter.shape))

    def restore(self, vector: np.ndarray) -> None:
        """`write`, and make the parameters float32 again if something has cast them."""
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.write(vector)

    def read(self) -> np.ndarray:
        """The model's adapter as a new vector of shape (manifest.size,)."""
        import torch

        with torch.no_grad():
            return torch.cat([parameter.reshape(-1).float().cpu() for parameter in self.parameters]).numpy()

    def pieces(self, vector: np.ndarray) -> list["torch.Tensor"]:
        """A copy of `vector` on the model's device, cut in the manifest's order. `AdapterError` on another size."""
        import torch

        if vector.shape != (self.manifest.size,):
            raise AdapterError(f"an adapter of shape {vector.shape} does not fit ({self.manifest.size},)")
        copy = torch.from_numpy(np.array(vector, np.float32)).to(self.parameters[0].device)
        return list(copy.split(self.manifest.sizes))


def manifest_of(model: "peft.PeftModel") -> Manifest:
    """The layout of a model's adapter; the model may be without storage (on the meta device)."""
    named = _named_tensors(model)
    return Manifest(tuple(named), tuple(tuple(tensor.shape) for tensor in named.values()))


def _named_tensors(model: "peft.PeftModel") -> dict[str, "torch.Tensor"]:
    """The adapter's tensors by name: as PEFT saves them, or the parameters of the encoder of a prompt method.

    There PEFT saves the encoder's output, the virtual tokens, which are not what is trained.
    """
    from peft import get_peft_model_state_dict

    if model.active_peft_config.is_prompt_learning:
        encoder = model.prompt_encoder[model.active_adapter]
        return {ENCODER + name: parameter for name, parameter in encoder.named_parameters()}
    return get_peft_model_state_dict(model, save_embedding_layers=False)
