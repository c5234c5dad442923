"""Layers of multi-token prediction, which DeepSeek's checkpoints have behind the hidden ones."""

import re
from collections.abc import Mapping

from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError

LAYER = re.compile(r"model\.layers\.(\d+)\.")


def hidden_layers(checkpoint: Verification) -> int:
    """How many layers the model has besides those of multi-token prediction."""
    layers = checkpoint.config.get("num_hidden_layers")
    if type(layers) is not int or layers < 1:
        raise CheckpointError(
            f"{checkpoint.index.folder}/config.json: num_hidden_layers is not a number: "
            "cannot tell which layers are MTP"
        )
    return layers


def without_mtp(checkpoint: Verification, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the multi-token prediction layers, which follow the last hidden layer."""
    layers = hidden_layers(checkpoint)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not ((layer := LAYER.match(name)) and int(layer[1]) >= layers)
    }
