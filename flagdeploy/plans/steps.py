"""The steps of a plan, as values: a plan prints itself and dumps to JSON; others carry it out."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flagdeploy.config.launch import ContainerSpec, EnvValue, ProcessSpec, Spec, StageCommand
from flagdeploy.config.plain import plain
from flagdeploy.config.secret import Secret

_SHOWN = 10


@dataclass(frozen=True)
class Step:
    """One effect on one host; `why` is for the reader. Steps of one `stage` run together."""

    host: str
    stage: str
    why: str

    def details(self) -> Iterator[str]:
        """Lines printed below `why`."""
        return iter(())


@dataclass(frozen=True)
class Skip(Step):
    """Nothing to do, and `why` says so."""


@dataclass(frozen=True)
class PullImage(Step):
    image: str


@dataclass(frozen=True)
class CheckCheckpoint(Step):
    """Every shard against the index and its own header, on the host, before the engine loads it."""

    path: str


@dataclass(frozen=True)
class ApplyPatches(Step):
    """Make a worktree of a component's repository with a vendor's patches; all of them or none."""

    set: str
    folder: str
    """Where the set lies, on the machine that carries out the plan."""
    component: str
    base: str
    patches: tuple[str, ...]
    repository: str
    worktree: str

    def details(self) -> Iterator[str]:
        yield f"git     {self.repository}"
        yield f"base    {self.base}"
        for name in self.patches[:_SHOWN]:
            yield f"patch   {name}"
        if len(self.patches) > _SHOWN:
            yield f"patch   and {len(self.patches) - _SHOWN} more"
        yield f"into    {self.worktree}"


@dataclass(frozen=True)
class Convert(Step):
    """Run a vendor's converter to its end, then check what it made and give it its name."""

    command: StageCommand
    spec: ContainerSpec
    unfinished: str
    """Folder of the host that is filled; it becomes the product when everything is in order."""
    identity: Mapping[str, Any]
    """What the product depends on, beside the content of the source."""
    stall_timeout: int
    interval: float

    def details(self) -> Iterator[str]:
        command = self.command
        yield from _container(self.spec)
        yield f"disk    {command.disk:g} times the size of {command.source}, in {self.unfinished}"
        if command.expects:
            yield f"expect  {', '.join(command.expects)}"
        for name, value in command.corrections.items():
            what = f"without {name}" if value is None else f"{name}: {value}"
            yield f"correct config.json {what}"
        yield f"rename  {self.unfinished} -> {command.product}"


@dataclass(frozen=True)
class Start(Step):
    """Create and start one rank."""

    rank: int
    spec: Spec

    def details(self) -> Iterator[str]:
        spec = self.spec
        return _container(spec) if isinstance(spec, ContainerSpec) else _process(spec)


@dataclass(frozen=True)
class WaitReady(Step):
    """Wait until the endpoint generates a token; never for `/health` (design, decision 5)."""

    address: str
    port: int
    model: str
    api_key: Secret | None
    stall_timeout: int
    interval: float

    def details(self) -> Iterator[str]:
        host = f"[{self.address}]" if ":" in self.address else self.address
        yield f"POST http://{host}:{self.port}/v1/completions (model {self.model})"


@dataclass(frozen=True)
class RecordNative(Step):
    """Keep what the endpoint generates without an operator library, to compare with."""

    endpoint: WaitReady
    key: str
    """Name of the record: what the ranks run."""
    checkpoint: str


@dataclass(frozen=True)
class ProveSwap(Step):
    """Look from inside of a rank whether its operator library is on; fail when it is not."""

    rank: int
    library: str
    variables: Mapping[str, str]
    """What every process of the rank has to have in its environment."""
    log: str
    """Pattern of the files that list the operators called; empty: there are none."""
    no_log: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def details(self) -> Iterator[str]:
        yield from (f"process {name}={value}" for name, value in self.variables.items())
        yield (
            f"log     {self.log}: newer than the start, and not empty"
            if self.log
            else (f"log     none: {self.no_log}")
        )


@dataclass(frozen=True)
class CompareNative(Step):
    """The endpoint's outputs against those recorded without the library, to the last bit."""

    endpoint: WaitReady
    key: str
    checkpoint: str
    required: bool
    """Nothing else shows the swap: equal outputs are a failure, not a warning."""


@dataclass(frozen=True)
class Stop(Step):
    """Stop and remove one rank that carries flagdeploy's labels."""

    id: str
    name: str
    rank: int
    timeout: int


@dataclass(frozen=True)
class Plan:
    """An ordered list of steps. `notes` are warnings for the reader."""

    deployment: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not isinstance(step, Skip))

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, 1):
            mark = "skip: " if isinstance(step, Skip) else ""
            lines.append(f"{number:3}. [{step.host}] {mark}{step.why}")
            lines.extend(f"       {detail}" for detail in step.details())
        lines.extend(f"note: {note}" for note in self.notes)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; secrets are masked."""
        steps = [{"step": type(step).__name__, **plain(step)} for step in self.steps]
        return {"deployment": self.deployment, "steps": steps, "notes": list(self.notes)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


def _environment(env: Mapping[str, EnvValue]) -> Iterator[str]:
    for name, value in sorted(env.items()):
        yield f"env     {name}={value}"


def _process(spec: ProcessSpec) -> Iterator[str]:
    yield from _environment(spec.env)
    yield f"run     {shlex.join(spec.argv)}"


def _container(spec: ContainerSpec) -> Iterator[str]:
    yield f"name    {spec.name}"
    yield f"image   {spec.image}"
    yield f"docker  {shlex.join(_options(spec))}"
    for mount in spec.mounts:
        yield f"mount   {mount}"
    yield from _environment(spec.env)
    for file in spec.files:
        yield f"file    {file.path}"
        yield from (f"        | {line}" for line in file.content.splitlines())
    yield f"run     {shlex.join(spec.argv)}"
    if spec.privileged or spec.pid == "host":
        yield "grants  root on the host (privileged container or host PID namespace)"


def _options(spec: ContainerSpec) -> list[str]:
    """The options in the words of `docker run`; the Engine API gets them as data."""
    options = [f"--network={spec.network}"]
    options += [f"--ipc={spec.ipc}"] if spec.ipc != "private" else []
    options += [f"--pid={spec.pid}"] if spec.pid != "private" else []
    options += ["--gpus=all"] if spec.gpus else []
    options += [f"--runtime={spec.runtime}"] if spec.runtime else []
    options += ["--privileged"] if spec.privileged else []
    options += ["--init"] if spec.init else []
    options += [f"--shm-size={spec.shm_size}"] if spec.shm_size else []
    options += [f"--ulimit={name}={value}" for name, value in sorted(spec.ulimits.items())]
    options += [f"--cap-add={name}" for name in spec.cap_add]
    options += [f"--security-opt={option}" for option in spec.security_opt]
    options += [f"--device={device}" for device in spec.devices]
    options += [f"--group-add={group}" for group in spec.group_add]
    options += [f"--user={spec.user}"] if spec.user else []
    options += [f"--workdir={spec.workdir}"] if spec.workdir else []
    options += (
        [f"--entrypoint={shlex.join(spec.entrypoint)}"] if spec.entrypoint is not None else []
    )
    return [*options, f"--stop-timeout={spec.stop_timeout}"]
