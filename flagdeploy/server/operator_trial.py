"""``python -m flagdeploy.server.operator_trial REQUEST VERDICT``: one trial of an operator library.

Loads a model, switches operators on, runs token sequences through it with teacher forcing, and
writes what came out as JSON. Nothing is caught: an operator that fails ends the process, and the
traceback on stderr is the evidence. ``VERDICT.beat`` says every second where the process is, and
SIGUSR1 prints the stacks of all threads. It ends when the process that started it is gone.

A request holds: ``model`` (directory), ``device``, ``dtype``, ``library`` (a module with FlagGems'
``enable`` and ``only_enable``), ``include`` or ``exclude`` (names of functions) or neither for
native kernels, ``sequences`` (lists of token ids, or ``random``: [count, length of the longest]),
``reference`` (``.npy`` of the native logits [T, V] float32, which a native trial writes), ``list``
(name all the library's operators instead of running). A native trial also says which aten operators
the model calls, and how far it is from itself when prompts are cut into other chunks.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagdeploy.server import library
from flagdeploy.server.heartbeat import Beat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flagdeploy.server.model import LoadedModel

    Logits = NDArray[np.float32]

PASSES = 3  # the first compiles; the fastest of the others is the time
STEPS = 4  # tokens at the end of each sequence that run one by one, as in decoding
CHUNK, FLOOR_CHUNK = 512, 16  # prompt tokens per forward pass
TOP = 5  # most likely tokens beside each chosen one
SHOWN = 10  # places of NaN that a verdict lists


def main(request_path: str, verdict_path: str) -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    request = json.loads(Path(request_path).read_text())
    out = Path(verdict_path)
    beat = Beat(out.with_suffix(".beat"))
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    listed = request.get("list")
    verdict = _operators(request["library"]) if listed else _run(request, out, beat)
    part = out.with_suffix(".part.json")
    part.write_text(json.dumps(verdict))
    part.replace(out)


def _operators(module: str) -> dict[str, Any]:
    """Names of all functions of the library, and of the aten operators each replaces."""
    loaded = library.load(module)
    loaded.enable(unused=[])
    names: dict[str, list[str]] = {}
    for name, key in zip(loaded.all_registered_ops(), loaded.all_registered_keys(), strict=True):
        names.setdefault(name, []).append(key)
    return {"operators": names, "version": library.version(loaded)}


def _run(request: dict[str, Any], out: Path, beat: Beat) -> dict[str, Any]:
    import numpy as np
    import torch

    from flagdeploy.server.model import LoadOptions, load

    torch.set_num_threads(request.get("threads") or 1)
    beat.at("load")
    loaded = load(
        LoadOptions(
            directory=Path(request["model"]), device=request["device"], dtype=request["dtype"]
        )
    )
    sequences = _sequences(request["sequences"], loaded)
    native = request.get("include") is None and request.get("exclude") is None
    reference = Path(request["reference"])
    wanted = None if native else np.load(reference)
    log = out.with_suffix(".ops")
    if not native:
        beat.at("enable")
        exclude = request.get("exclude") or ()
        library.enable(
            library.load(request["library"]), log, include=request.get("include"), exclude=exclude
        )
    seconds, logits, scores = [], None, Scores()
    for number in range(PASSES):
        beat.at(f"pass {number + 1} of {PASSES}")
        started = time.perf_counter()
        scores = Scores()
        logits = _forward(loaded, sequences, CHUNK, beat, scores)
        seconds.append(time.perf_counter() - started)
    assert logits is not None
    beat.at("compare")
    if wanted is None:
        wanted = logits
        _save(reference, logits)
    verdict = {
        **_against(logits, wanted),
        **scores.off_by(logits),
        "first_s": seconds[0],
        "seconds": min(seconds[1:]),
        "recorded": recorded(log),
    }
    if native:
        floor = _against(_forward(loaded, sequences, FLOOR_CHUNK, beat), wanted)
        verdict |= {"floor_kl": floor.get("kl"), "called": _called(loaded, sequences)}
    return verdict


def _sequences(asked: Any, loaded: "LoadedModel") -> list[tuple[int, ...]]:
    if isinstance(asked, list):
        return [tuple(ids) for ids in asked]
    import random

    count, longest = asked["random"]
    draw = random.Random(0)
    vocabulary = loaded.model.config.vocab_size
    # of many lengths, odd ones too: kernels are chosen by shape, and rows of a batch are padded
    lengths = [longest - row * (longest // count + 1) for row in range(count)]
    return [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]


def recorded(log: Path) -> list[str]:
    """Functions of the library that were called, from lines ``[DEBUG] flag_gems.ops.add.add: ...``;
    empty without a log."""
    if not log.is_file():
        return []
    lines = (line.partition("] ") for line in log.read_text(errors="replace").splitlines())
    names = (rest.partition(":")[0] for level, _, rest in lines if level == "[DEBUG")
    return sorted({name.rpartition(".")[2] for name in names if name})


def _called(loaded: "LoadedModel", sequences: list[tuple[int, ...]]) -> list[str]:
    """Names, without overloads, of the aten operators that one native pass dispatches."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        _forward(loaded, sequences[:1], CHUNK, None, Scores())
    keys = {event.key for event in seen.key_averages()}
    return sorted(key.removeprefix("aten::") for key in keys if key.startswith("aten::"))


class Scores:
    """What a server makes of logits on the device: the next token, and log-probabilities."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def take(self, logits: Any) -> None:
        """Rows of `logits` [n, V], on the device, as the server's sampler and scorer see them."""
        from flagdeploy.server.logprobs import finite_rows, token_logprobs
        from flagdeploy.server.protocol import Sampling
        from flagdeploy.server.sampling import Choice, next_tokens

        greedy = Choice(Sampling(temperature=0.0), generator=None)  # type: ignore[arg-type]
        tokens = next_tokens(logits, [greedy] * len(logits))
        self._tokens += tokens
        if all(finite_rows(logits)):
            self._logprobs += [one.logprob for one in token_logprobs(logits, tokens, TOP)]

    def off_by(self, logits: "Logits") -> dict[str, Any]:
        """`logprob_error`: the largest, in nats, against the same logits in double precision;
        `wrong_tokens`: how many chosen ones are not the most likely; `unscored`: at how many
        positions finite logits became none, or NaN, and nothing else was looked at."""
        import numpy as np

        if not np.isfinite(logits).all():
            return {}  # which the logits show
        if unscored := len(logits) - int(np.isfinite(self._logprobs).sum()):
            return {"unscored": unscored}
        wide = logits.astype(np.float64)
        rows = np.arange(len(wide))
        exact = _log_softmax(wide)[rows, self._tokens]
        wrong = wide[rows, self._tokens] < wide.max(axis=-1)
        error = float(np.abs(exact - np.array(self._logprobs)).max())
        return {"logprob_error": error, "wrong_tokens": int(wrong.sum())}


def _forward(
    loaded: "LoadedModel",
    sequences: list[tuple[int, ...]],
    chunk: int,
    beat: Beat | None,
    scores: Scores | None = None,
) -> "Logits":
    """Logits [T, V] float32 of all tokens: prompts in chunks, the last tokens one by one alone,
    and the very last of all sequences in one batch, as a server runs them."""
    import numpy as np
    import torch
    from transformers import DynamicCache

    from flagdeploy.server.forward import Forward

    forward, pieces = Forward(loaded, len(sequences)), []
    with torch.inference_mode():
        for row, ids in enumerate(sequences):
            if beat is not None:
                beat.at(f"{beat.stage.partition(',')[0]}, sequence {row + 1}")
            cache, start = DynamicCache(), 0
            whole = len(ids) - 1
            while start < whole:
                end = start + 1 if start >= whole - STEPS else min(start + chunk, whole - STEPS)
                logits, count = forward.prefill(cache, ids[:end], start, all_logits=True)
                if scores is not None:
                    scores.take(logits)
                pieces.append(logits.cpu().numpy())
                start += count
            forward.cache.join(row, cache)
        lengths = [len(ids) - 1 for ids in sequences]
        last = forward.decode([ids[-1] for ids in sequences], lengths)
        if scores is not None:
            scores.take(last)
        pieces.append(last.cpu().numpy())
    return np.concatenate(pieces)


def _save(path: Path, logits: "Logits") -> None:
    """Whole or not at all: what is there is compared with."""
    import numpy as np

    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.save(file, logits)
    part.replace(path)


def _against(logits: "Logits", wanted: "Logits") -> dict[str, Any]:
    """How far logits [T, V] are from `wanted`; computed by numpy, which nothing replaces."""
    import numpy as np

    bad = ~np.isfinite(logits).all(axis=-1)
    figures: dict[str, Any] = {
        "positions": len(logits),
        "not_finite": int(bad.sum()),
        "not_finite_at": [int(place) for place in np.flatnonzero(bad)[:SHOWN]],
        "identical": bool(np.array_equal(logits, wanted)),
    }
    if bad.any():
        return figures
    p, q = (_log_softmax(one.astype(np.float64)) for one in (wanted, logits))
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    top1 = (wanted.argmax(axis=-1) == logits.argmax(axis=-1)).mean()
    return figures | {
        "kl": float(max(kl.mean(), 0.0)),
        "kl_worst": float(kl.max()),
        "top1": float(top1),
    }


def _log_softmax(logits: Any) -> Any:
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
