"""A base model that one GPU cannot hold, laid over several: each has some of the layers, one after the other.

accelerate divides the layers and moves what passes between them (`device_map="auto"`). While one GPU computes, the
others wait: this makes room and no speed.
"""

import logging
from typing import TYPE_CHECKING, Any

from fedllm_app.models.files import UnusableModel
from fedllm_app.models.location import ModelLocation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARE = 0.9  # of what is free on a GPU, for weights: training needs the rest, as accelerate's own default leaves it
_log = logging.getLogger(__name__)


def spread_options(device_map: str) -> dict[str, Any]:
    """What `from_pretrained` is given for `model.device-map`; nothing where the process does not see two GPUs.

    Only GPUs get layers. accelerate would also put some in the machine's memory or on its disk, where no adapter can
    be trained.
    """
    import torch

    if device_map == "none":
        return {}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2:
        seen = "one GPU" if count else "no GPU"
        _log.warning("model.device-map = %r is not used: this process sees %s", device_map, seen)
        return {}
    return {
        "device_map": device_map,
        "max_memory": {gpu: int(_SHARE * torch.cuda.mem_get_info(gpu)[0]) for gpu in range(count)},
    }


def check_spread(model: "PreTrainedModel", location: ModelLocation) -> None:
    """Refuse a model of which a part did not get onto a GPU; else log on how many it lies."""
    places = getattr(model, "hf_device_map", {"": 0})  # a small model lies on the first
    left = [name for name, place in places.items() if place in ("cpu", "disk")]
    if left:
        raise UnusableModel(
            f"model.name = {location.name!r}: the GPUs that this process sees cannot hold the model together "
            f"({len(left)} of its {len(places)} parts have no room, {left[0]} is the first): give each client more "
            "GPUs (--federation-config client-resources-num-gpus), or quantize the base (model.quantization = 'nf4')"
        )
    _log.info("%s lies on %d of the GPUs that this process sees", location.name, len(set(places.values())))
