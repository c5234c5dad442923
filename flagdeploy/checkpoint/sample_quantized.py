"""Read samples of quantized tensors back: the same bits, and what the quantization costs."""

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from flagdeploy.checkpoint.comparison import Error, compare_piece, places_of
from flagdeploy.checkpoint.jobs import ShardJob
from flagdeploy.checkpoint.pieces import any_piece
from flagdeploy.checkpoint.quantize_jobs import QuantizeFp8, QuantizeInt4
from flagdeploy.checkpoint.reading import OpenFolder
from flagdeploy.checkpoint.tensor_class import tensor_class

_SAMPLES = 64


def compare_quantized(
    jobs: Iterable[ShardJob], source: Path, out: Path
) -> tuple[str | None, dict[str, float]]:
    """Compare up to 64 samples of the quantized tensors with the source.

    A sample is a block of 128 x 128 (FP8) or a group of 128 (INT4). Returns the first that differs,
    if any, and by class of tensor the relative error ``sqrt(sum (w - q)^2 / sum w^2)``.
    """
    items = [
        (job, item)
        for job in jobs
        for item in job.work
        if isinstance(item, QuantizeInt4 | QuantizeFp8) and item.source.nbytes
    ]
    chance = random.Random(0)
    errors: defaultdict[str, Error] = defaultdict(Error)
    with OpenFolder(source) as original, OpenFolder(out) as written:
        for job, item in chance.sample(items, min(_SAMPLES, len(items))):
            piece, places = any_piece(item, chance), places_of(job, item)
            error, found = compare_piece(item, piece, original, written, places)
            if any(found):
                return f"{job.name}: {item.name}", {}
            errors[tensor_class(item.name)].add(error)
    return None, {kind: round(error.relative, 6) for kind, error in sorted(errors.items())}
