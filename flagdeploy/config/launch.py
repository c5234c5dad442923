"""What one rank of a deployment runs: the types that plans make and launchers carry out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagdeploy.config.secret import Secret

EnvValue = str | Secret

# Labels are the truth about what runs (decision 4 of the design): nothing without them is touched.
LABEL = "flagdeploy."
LABEL_DEPLOYMENT = LABEL + "deployment"
LABEL_RUN = LABEL + "run"
LABEL_RANK = LABEL + "rank"
LABEL_RANKS = LABEL + "ranks"
LABEL_SPEC = LABEL + "spec_sha256"
LABEL_ENDPOINT = LABEL + "endpoint"
LABEL_MODEL = LABEL + "model"
LABEL_STAGE = LABEL + "stage"
LABEL_PATCH = LABEL + "patch"


@dataclass(frozen=True)
class Host:
    """One line of an inventory. `address` is what SSH connects to and the other ranks see."""

    address: str
    slots: int = 1
    type: str = ""
    user: str | None = None
    port: int = 22
    docker: str | None = None
    """Address of the Docker engine's socket on the host, e.g. ``unix:///run/docker.sock``."""

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class File:
    """A small file that a rank needs, e.g. TensorRT-LLM's options; mounted read-only at `path`."""

    path: str
    content: str


@dataclass(frozen=True)
class RankCommand:
    """What an engine wants one rank to run: argument list, environment, files. No shell text."""

    rank: int
    argv: tuple[str, ...]
    env: dict[str, EnvValue] = field(default_factory=dict)
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class Switch:
    """What shows that an operator library is on in a rank."""

    library: str
    variables: tuple[str, ...]
    """Names of the variables that every process of the rank has to have."""
    log: str
    """Pattern of the files that list the operators called; empty: there are none."""
    no_log: str = ""
    """Why there are none."""
    off: Mapping[str, str] = field(default_factory=dict)
    """Variables that switch it off, whoever switched it on."""
    log_at: Mapping[str, str] = field(default_factory=dict)
    """The variable that moves the files of `log`, with the part of it that it stands for."""

    @property
    def taken_back(self) -> tuple[str, ...]:
        """Arguments of env(1) that undo the switch, whoever set it."""
        words = ([f"{name}={self.off[name]}"] for name in self.variables if name in self.off)
        gone = (["-u", name] for name in self.variables if name not in self.off)
        return tuple(word for part in (*gone, *words) for word in part)


@dataclass(frozen=True)
class StageCommand:
    """What an engine wants to run before its ranks: a vendor's converter, and what it makes."""

    stage: str
    """``checkpoint`` or ``weight_cache``."""
    converter: str
    image: str
    argv: tuple[str, ...]
    source: str
    """The folder that it reads."""
    product: str
    """The folder that it fills."""
    disk: float
    """Bytes that it writes at most for each byte of the source's shards."""
    inputs: tuple[str, ...] = ()
    """More files and folders that it reads."""
    env: dict[str, EnvValue] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    workdir: str | None = None
    devices: bool = False
    """It computes on the accelerators, so no rank may hold them meanwhile."""
    expects: tuple[str, ...] = ()
    """Files that the product must hold at the end."""
    corrections: dict[str, Any] = field(default_factory=dict)
    """Keys of the product's config.json to set; None removes a key."""


@dataclass(frozen=True)
class Mount:
    source: str
    target: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.target}" + (":ro" if self.read_only else "")


@dataclass(frozen=True)
class ContainerSpec:
    """One container, as the Engine API is asked to create it (Docker Engine API 1.41)."""

    name: str
    image: str
    argv: tuple[str, ...]
    env: dict[str, EnvValue]
    labels: dict[str, str]
    files: tuple[File, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()
    gpus: bool = False
    runtime: str | None = None
    network: str = "host"
    ipc: str = "host"
    pid: str = "private"
    privileged: bool = False
    shm_size: str | None = None
    ulimits: dict[str, int] = field(default_factory=dict)
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    workdir: str | None = None
    init: bool = True
    stop_timeout: int = 30


@dataclass(frozen=True)
class UntrustedSpec(ContainerSpec):
    """A container for a program that nobody trusts, such as code that a model wrote.

    No network, user nobody, no capabilities and no way to gain any, a read-only root; sizes as
    `docker run` takes them. `files` lie below `inbox`, which only root may write and which goes
    with the container. An engine that cannot enforce a limit is refused.
    """

    network: str = "none"
    ipc: str = "none"
    user: str | None = "65534:65534"
    init: bool = False
    stop_timeout: int = 0
    memory: str = "2g"
    """Without swap beside it."""
    pids: int = 64
    cpus: float = 1.0
    scratch: str = "64m"
    """/tmp, the one writable place; it counts as memory."""
    log: str = "64m"
    """Of output that is kept."""
    inbox: str = "/inbox"


@dataclass(frozen=True)
class ProcessSpec:
    """One child process in its own session on this machine (the `local` launcher)."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, EnvValue]
    labels: dict[str, str]
    stop_timeout: int = 30


Spec = ContainerSpec | ProcessSpec


@dataclass(frozen=True)
class Running:
    """A rank found on a host: a container or a local process that carries flagdeploy's labels."""

    host: str
    id: str
    name: str
    state: str
    """``created``, ``running`` or ``exited``."""
    labels: dict[str, str]
    exit_code: int | None = None
    started_at: str = ""
    """RFC 3339, by the host's clock; empty when it never started."""
    finished_at: str = ""
    oom_killed: bool = False
    """The kernel ended it for want of memory."""
    image: str = ""
    """Id of the image that a container runs, whatever its name stands for by now."""

    @property
    def rank(self) -> int:
        return int(self.labels[LABEL_RANK])

    @property
    def stage(self) -> str:
        """The stage whose converter this is; empty for a rank."""
        return self.labels.get(LABEL_STAGE, "")

    @property
    def what(self) -> str:
        """For messages: ``rank 0``, ``the checkpoint stage``."""
        return f"the {self.stage} stage" if self.stage else f"rank {self.rank}"
