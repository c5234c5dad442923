"""What torch.save's pickles name: tensors and their storages.

Source: torch/_utils.py and torch/serialization.py.
"""

from typing import Any, NamedTuple

from flagdeploy.formats.pickle import Global, Vocabulary, exactly, natural, parse

_STORAGES = {
    **{"torch FloatStorage": "F32", "torch BFloat16Storage": "BF16", "torch HalfStorage": "F16"},
    **{"torch DoubleStorage": "F64", "torch LongStorage": "I64", "torch IntStorage": "I32"},
    **{"torch ShortStorage": "I16", "torch CharStorage": "I8", "torch ByteStorage": "U8"},
    "torch BoolStorage": "BOOL",
}
_FUNCTIONS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "_codecs encode",  # how protocol 2 writes bytes
    "torch.torch_version TorchVersion",  # torch.__version__, a subclass of str
}


class Storage(NamedTuple):
    """`elements` of `dtype` in the record ``data/KEY`` of the archive."""

    dtype: str
    key: str
    elements: int


class Tensor(NamedTuple):
    """A tensor's place in its storage; `offset` and `stride` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def parse_state(raw: bytes) -> Any:
    """The object that a pickle of torch.save describes, with `Tensor` in the place of tensors.

    Raises ValueError with the reason for anything that torch.save does not write for a nest of
    dicts, lists, tuples, numbers, strings, bytes and tensors.
    """
    return parse(raw, _VOCABULARY)


def _call(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case Global("collections OrderedDict"), ():
            return {}
        case (
            Global("torch._utils _rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(shape), tuple(stride), *_),
        ) if all(map(natural, (offset, *shape, *stride))) and len(shape) == len(stride):
            return Tensor(storage, offset, shape, stride)
        case Global("torch._utils _rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
        case Global("_codecs encode"), (str(text), "latin1"):
            return text.encode("latin1")
        case Global("torch.torch_version TorchVersion"), (str(version),):
            return version
    raise TypeError


def _storage(identifier: Any) -> Storage:
    """A storage is named by ("storage", its type, key, device, number of elements)."""
    match identifier:
        case ("storage", Global(kind), str(key), str(), int(elements)) if natural(elements):
            return Storage(_STORAGES[kind], key, elements)
    raise TypeError


def _drop_attributes(target: Any, _: Any) -> None:
    """State dicts of modules carry versions (``_metadata``) as attributes of the dict."""
    exactly(dict, target)


_VOCABULARY = Vocabulary(
    "a tensor", frozenset({*_FUNCTIONS, *_STORAGES}), _call, _storage, _drop_attributes
)
