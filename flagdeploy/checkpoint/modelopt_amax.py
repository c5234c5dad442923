"""Calibration of DeepSeek as NVIDIA Model-Optimizer's examples/deepseek/.../ptq.py leaves it.

A folder with one ``amax_dict_rank{r}-mp{n}.pt`` for each of the n ranks: torch.save of a dict of
``layers.L.ffn.experts.E.w1.input_quantizer._amax`` (DeepSeek's own names, w1 gate, w2 down, w3 up)
and much else. With expert parallelism an expert is in one rank's file, otherwise in several.
"""

import re
from pathlib import Path

from flagdeploy.checkpoint.torch_file import read_numbers
from flagdeploy.errors import CheckpointError

# Of an expert: (layer, expert, which of its inputs: w1, w2 or w3).
Place = tuple[int, int, str]

_FILE = re.compile(r"amax_dict_rank(\d{1,4})-mp(\d{1,4})\.pt")
_AMAX = re.compile(
    r"(?:model\.)?layers\.(\d{1,6})\.(?:ffn|mlp)\.experts\.(\d{1,6})\."
    r"(w1|w2|w3|gate_proj|down_proj|up_proj)\.input_quantizer\._amax"
)
_INPUT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def read_amax(folder: Path) -> dict[Place, float]:
    """The largest absolute input of the routed experts' projections, over all ranks.

    Raises CheckpointError when a rank's file is missing or unsound, when the files are of different
    runs, hold no routed expert, or a value that is not finite and positive.
    """
    largest: dict[Place, float] = {}
    for path in _rank_files(folder):
        for name, value in read_numbers(path, lambda name: bool(_AMAX.fullmatch(name))).items():
            if not 0 < value < float("inf"):
                raise CheckpointError(f"{path}: {name}: {value} is not an amax")
            place = _place(name)
            largest[place] = max(value, largest.get(place, value))
    if not largest:
        raise CheckpointError(
            f"{folder}: has no input_quantizer._amax of routed experts "
            "(layers.L.ffn.experts.E.w1 or model.layers.L.mlp.experts.E.gate_proj and so on)",
            "calibrate with a configuration that quantizes their inputs, such as FP8_DEFAULT_CFG",
        )
    return largest


def _rank_files(folder: Path) -> list[Path]:
    found = {path.name: match for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))}
    if not found:
        raise CheckpointError(
            f"{folder}: has no amax_dict_rank*-mp*.pt",
            "name the folder that Model-Optimizer's ptq.py wrote (--output_path), or a file of "
            "scales",
        )
    worlds = sorted({int(match[2]) for match in found.values()})
    if len(worlds) > 1:
        raise CheckpointError(
            f"{folder}: has files of runs with {' and '.join(map(str, worlds))} ranks",
            "keep those of one run",
        )
    names = [f"amax_dict_rank{rank}-mp{worlds[0]}.pt" for rank in range(worlds[0])]
    foreign = sorted(found.keys() - names)
    if foreign:
        raise CheckpointError(f"{folder}: has {foreign[0]} beyond its {worlds[0]} ranks")
    missing = [name for name in names if name not in found]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise CheckpointError(
            f"{folder}: lacks {', '.join(missing[:8])}{more}: experts of those ranks would go "
            "without scales",
            "every rank of ptq.py writes one file: bring them together",
        )
    return [folder / name for name in names]


def _place(name: str) -> Place:
    match = _AMAX.fullmatch(name)
    assert match
    return int(match[1]), int(match[2]), _INPUT.get(match[3], match[3])
