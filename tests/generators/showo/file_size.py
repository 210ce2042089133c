"""How many bytes a safetensors file of some tensors has, without writing it."""

import json

from torch import Tensor

NAMES = {"torch.float32": "F32", "torch.int64": "I64"}


def safetensors_bytes(tensors: dict[str, Tensor]) -> int:
    """Eight bytes of length, a header padded to eight, then the numbers: largest type first, each type by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + end
