"""Read random parts of a converted checkpoint back and compute them again, another way."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from flagdeploy.checkpoint.comparison import compare_piece, places_of
from flagdeploy.checkpoint.jobs import ShardJob
from flagdeploy.checkpoint.pieces import any_piece
from flagdeploy.checkpoint.reading import OpenFolder

_SAMPLES = 32


def compare_samples(
    weight_map: Mapping[str, str], job: Callable[[str], ShardJob], source: Path, out: Path
) -> str | None:
    """Compare samples of up to 32 random tensors with the source; name the first that differs.

    A sample is a small piece of a tensor, whether copied, dequantized, decoded from four bits or
    quantized. `job` gives the job of a shard of `weight_map`.
    """
    chance = random.Random(0)
    names = chance.sample(sorted(weight_map), min(_SAMPLES, len(weight_map)))
    with OpenFolder(source) as original, OpenFolder(out) as written:
        for shard in sorted({weight_map[name] for name in names}):
            made = job(shard)
            for item in made.work:
                if item.name not in names or not item.source.nbytes:
                    continue
                piece, places = any_piece(item, chance), places_of(made, item)
                _, found = compare_piece(item, piece, original, written, places)
                if any(found):
                    return f"{shard}: {item.name}"
    return None
