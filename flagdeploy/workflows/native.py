"""What a deployment generates without its operator library, kept to compare with."""

import http.client
import json
import re
from pathlib import Path
from typing import Any

from flagdeploy.errors import EngineError, FlagdeployError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import CompareNative, RecordNative, WaitReady
from flagdeploy.records.files import write_private
from flagdeploy.workflows.checkpoint_on_host import fingerprint
from flagdeploy.workflows.endpoint import post

FOLDER = "native"  # of the records, beside the runs
REPEATS = 2  # a model that does not repeat itself cannot show a swap by its outputs
# Shorter than a block of any KV cache, so that no answer comes out of a prefix cache.
PROMPTS = ("1", "2 + 2 =", "Once upon a")
TOKENS = 16


def record_native(step: RecordNative, launcher: Launcher, deployment: str, folder: Path) -> str:
    """Keep in ``folder/KEY.json`` what the endpoint generates; asked twice, to see it repeat.

    An endpoint without log-probabilities leaves nothing on record: `compare_native` knows whether
    anything else shows the swap.
    """
    try:
        answers = [_answers(step.endpoint, launcher) for _ in range(REPEATS)]
    except Refused as error:
        return f"{error}; operators.compare_native=false leaves this start out"
    record = {"of": _runs_now(step, launcher, deployment), "answers": answers}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(_record(folder, step.key), json.dumps(record).encode())
    return f"{len(PROMPTS)} prompts, {TOKENS} tokens each"


def recorded(folder: Path) -> dict[str, str]:
    """Keys of the records in `folder`, and of which image and checkpoint each is."""
    return {path.stem: _read(path)["of"] for path in folder.glob("*.json")}


def _read(path: Path) -> dict[str, Any]:
    """A record; an empty one where there is none that can be read, which is made anew."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        return {"of": str(record["of"]), "answers": list(record["answers"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"of": "", "answers": []}


def _runs_now(step: RecordNative | CompareNative, launcher: Launcher, deployment: str) -> str:
    """Image and checkpoint of what answers, as `Facts.native_of` says it before."""
    images = [r.image for r in launcher.running(deployment) if r.rank == 0 and not r.stage]
    found = fingerprint(launcher, step.checkpoint)
    return f"{images[0] or 'process'} {found.digest}" if images and found else ""


def compare_native(step: CompareNative, launcher: Launcher, deployment: str, folder: Path) -> str:
    """How outputs with the library stand to native ones.

    Equal to the last bit they are no proof of anything else than that: an operator may compute the
    same bits. Only where nothing else shows the swap (`step.required`), it is an EngineError, and
    so is a native run that cannot be compared with.
    """
    record = _read(_record(folder, step.key))
    native, again = record["answers"], f"flagdeploy stop {deployment}, then serve it: records one"
    if not native:
        return _no_comparison(step, "no native run is on record", again)
    if record["of"] != _runs_now(step, launcher, deployment):
        what = "the native run on record had another image or checkpoint"
        return _no_comparison(step, what, again)
    if any(answer != native[0] for answer in native[1:]):
        return _no_comparison(step, "native outputs differ from run to run")
    try:
        now = _answers(step.endpoint, launcher)
    except Refused as error:
        return _no_comparison(step, str(error))
    different = sum(one != other for one, other in zip(now, native[0], strict=True))
    if different:
        return f"outputs differ from native ones on {different} of {len(PROMPTS)} prompts"
    return _no_comparison(
        step, "outputs are native ones to the last bit: the operators called compute the same bits"
    )


def _no_comparison(step: CompareNative, what: str, hint: str | None = None) -> str:
    if step.required:
        shown = "nothing shows that the operator library is on"
        raise EngineError(f"{step.host}: {shown}: {what}", hint)
    return what


class Refused(FlagdeployError):
    """The endpoint gives no log-probabilities."""


def _answers(endpoint: WaitReady, launcher: Launcher) -> list[Any]:
    """Per prompt, the tokens generated greedily and their log-probabilities."""
    return [_answer(endpoint, launcher, prompt) for prompt in PROMPTS]


def _answer(endpoint: WaitReady, launcher: Launcher, prompt: str) -> Any:
    body = {"model": endpoint.model, "prompt": prompt, "max_tokens": TOKENS}
    body |= {"temperature": 0, "logprobs": 1}
    try:
        status, answer = post(
            launcher, endpoint.address, endpoint.port, "/v1/completions", body, endpoint.api_key
        )
    except (OSError, EOFError, http.client.HTTPException, HostError) as error:
        what = f"the endpoint did not answer {prompt!r}: {error or type(error).__name__}"
        raise EngineError(f"{endpoint.host}: {what}") from None
    try:
        found = json.loads(answer)["choices"][0]["logprobs"]
        return [found["tokens"], found["token_logprobs"]]
    except (ValueError, KeyError, IndexError, TypeError):
        text = re.sub(r"\s+", " ", answer.decode(errors="replace"))[:200]
        if status >= 500:  # an operator that fails on this prompt, or an engine that broke
            what = f"the endpoint fails on {prompt!r}: HTTP {status}: {text}"
            raise EngineError(f"{endpoint.host}: {what}") from None
        raise Refused(f"the endpoint gives no log-probabilities: HTTP {status}: {text}") from None


def _record(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"
