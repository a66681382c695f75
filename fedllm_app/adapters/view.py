"""The trained parameters of a PEFT model, read and written as one packed float32 vector."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.adapters.layout import ENCODER, AdapterError, Manifest

if TYPE_CHECKING:
    import peft
    import torch


class AdapterView:
    """Reads and writes the adapter of a PEFT model, or a part of it, as one packed float32 vector.

    Parameters
    ----------
    part : Callable[[str], bool]
        Which tensors the vector holds, by name; all by default.

    Attributes
    ----------
    parameters : list[torch.nn.Parameter]
        In the manifest's order.
    """

    def __init__(self, model: "peft.PeftModel", part: Callable[[str], bool] = lambda name: True) -> None:
        parameters, names = adapter_parameters(model)
        kept = [(name, parameter) for name, parameter in zip(names, parameters, strict=True) if part(name)]
        self.parameters = [parameter for _, parameter in kept]
        self.manifest = manifest_of(model).part([name for name, _ in kept])

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
            pieces = [parameter.reshape(-1).float().cpu() for parameter in self.parameters]
            return torch.cat(pieces).numpy() if pieces else np.zeros(0, np.float32)

    def pieces(self, vector: np.ndarray) -> list["torch.Tensor"]:
        """A copy of `vector`, cut in the manifest's order, each piece on the device of its parameter.

        AdapterError on another size.
        """
        import torch

        if vector.shape != (self.manifest.size,):
            raise AdapterError(f"an adapter of shape {vector.shape} does not fit ({self.manifest.size},)")
        if not self.parameters:
            return []
        copy = torch.from_numpy(np.array(vector, np.float32))
        devices = {parameter.device for parameter in self.parameters}
        if len(devices) == 1:
            return list(copy.to(devices.pop()).split(self.manifest.sizes))  # sent at once
        pieces = zip(copy.split(self.manifest.sizes), self.parameters, strict=True)
        return [piece.to(parameter.device) for piece, parameter in pieces]


def adapter_parameters(model: "peft.PeftModel") -> tuple[list["torch.nn.Parameter"], list[str]]:
    """The adapter's parameters and their names, in the manifest's order. AdapterError if others are trained as well."""
    named = _named_parameters(model)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    others = trained - {id(parameter) for parameter in named.values()}
    if others:
        raise AdapterError(f"{len(others)} tensors of the model are trained and do not belong to its adapter")
    return list(named.values()), list(named)


def manifest_of(model: "peft.PeftModel") -> Manifest:
    """The layout of a model's adapter; the model may be without storage (on the meta device)."""
    named = _named_parameters(model)
    return Manifest(tuple(named), tuple(tuple(parameter.shape) for parameter in named.values()))


def _named_parameters(model: "peft.PeftModel") -> dict[str, "torch.nn.Parameter"]:
    """The adapter's parameters by the names that PEFT saves them under, or those of the encoder of a prompt method.

    There PEFT saves the encoder's output, the virtual tokens, which are not what is trained.
    """
    from peft import get_peft_model_state_dict

    if model.active_peft_config.is_prompt_learning:
        encoder = model.prompt_encoder[model.active_adapter]
        return {ENCODER + name: parameter for name, parameter in encoder.named_parameters()}
    # keep_vars: the parameters themselves, not tensors that share their storage, which a trainer may replace.
    return get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True), save_embedding_layers=False)
