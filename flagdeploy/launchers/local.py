"""Ranks as child processes of this machine, for machines without Docker.

Each runs in a session of its own under a small shell that notes its exit code, and outlives the
command that started it. State lies in one folder per rank: ``state.json``, ``log``, ``exit``.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from flagdeploy.config.facts import HostFacts
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_SPEC,
    File,
    Host,
    ProcessSpec,
    Running,
    Spec,
)
from flagdeploy.config.secret import Secret
from flagdeploy.errors import HostError, UsageError
from flagdeploy.launchers.base import Result, expand, listening_ports, sign_of_life
from flagdeploy.launchers.session import TOKEN, Session, boot_id, stat
from flagdeploy.records.events import Report
from flagdeploy.records.files import write_private

# Runs "$@" and writes its exit code into the file $0. SIGTERM goes to the whole session, and the
# shell has to outlive its child to write.
_SUPERVISOR = 'trap : TERM INT HUP; "$@"; echo $? > "$0"'


VERSION = 1  # of state.json
FOLDER = "FLAGDEPLOY_RANK_FOLDER"
"""Names a private folder of the rank, which goes when it is stopped."""


@dataclass(frozen=True)
class State:
    """What is remembered of a rank; no environment, so no secrets."""

    name: str
    labels: dict[str, str]
    started_at: str
    token: str
    boot: str
    stop_timeout: int
    pid: int = 0
    start: int = 0
    version: int = VERSION


class LocalLauncher:
    """This machine. See `flagdeploy.launchers.base.Launcher`; ids are names of ranks."""

    def __init__(self, host: Host, state: Path) -> None:
        if not sys.platform.startswith("linux"):
            raise UsageError(
                f"the local launcher needs Linux (/proc), this is {sys.platform}",
                "use hosts with SSH and Docker: --launcher ssh --hosts FILE",
            )
        self.host = host
        self._folder = state

    def probe(self, name: str, devices: Sequence[str], ports: Iterable[int]) -> HostFacts:
        tables = "".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6"))
        nodes = [node for pattern in devices for node in expand(pattern, self.listdir)]
        return HostFacts(
            running=self.running(name),
            device_nodes=tuple(dict.fromkeys(nodes)),
            ports_in_use=listening_ports(tables) & set(ports),
        )

    def engine_version(self) -> str:
        return "processes of this machine"

    def run(self, argv: Sequence[str], timeout: float = 20, stdin: bytes = b"") -> Result:
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:  # whose text is the whole command, programs of ours too
            what = f"`{argv[0]}`: not done after {timeout:g} seconds"
            raise HostError(str(self.host), what) from None
        except OSError as error:
            raise HostError(str(self.host), f"`{argv[0]}`: {error}") from None
        return Result(done.returncode, done.stdout, done.stderr)

    def pull(self, image: str, report: Report) -> str:
        raise UsageError("the local launcher runs no containers", "--launcher ssh")

    def start(self, spec: Spec) -> str:
        if not isinstance(spec, ProcessSpec):
            raise UsageError("the local launcher starts processes; --launcher ssh for containers")
        for rank in self.running():
            if rank.name == spec.name and rank.state == "running":
                if rank.labels.get(LABEL_SPEC) == spec.labels.get(LABEL_SPEC):
                    return rank.id
                raise HostError(
                    str(self.host),
                    f"{spec.name} runs already with other settings",
                    f"flagdeploy stop {rank.labels[LABEL_DEPLOYMENT]}",
                )
        self._launch(spec)
        return spec.name

    def _launch(self, spec: ProcessSpec) -> None:
        folder = self._folder / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        state = State(
            spec.name,
            dict(spec.labels),
            started_at=datetime.now(UTC).isoformat(),
            token=secrets.token_hex(16),
            boot=boot_id(),
            stop_timeout=spec.stop_timeout,
        )
        write_private(folder / "exit", b"")
        write_private(folder / "log", b"")
        # Known before it runs: a crash between here and the next write still leaves the token.
        _write(folder, state)
        given = {k: v.reveal() if isinstance(v, Secret) else v for k, v in spec.env.items()}
        log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SUPERVISOR, str(folder / "exit"), *spec.argv],
                {**os.environ, **given, FOLDER: str(folder), TOKEN: state.token},
                file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)]
                + [(os.POSIX_SPAWN_DUP2, log, output) for output in (1, 2)],
                setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGPIPE],
            )
        except OSError as error:
            shutil.rmtree(folder)
            raise HostError(str(self.host), f"start {spec.name}: {error.strerror}") from None
        finally:
            os.close(log)
            os.close(null)
        found = stat(pid)
        _write(folder, State(**{**asdict(state), "pid": pid, "start": found.start if found else 0}))

    def put(self, id: str, files: Sequence[File]) -> None:
        raise UsageError("the local launcher runs no containers", "--launcher ssh")

    def inside(self, id: str, argv: Sequence[str], timeout: float = 20) -> Result:
        """On this machine, with the rank's folder in the environment."""
        return self.run(["env", f"{FOLDER}={self._folder / id}", *argv], timeout)

    def stop(self, id: str, timeout: int | None = None) -> None:
        if (state := self._read(id)) is None:
            return
        self._session(state).end(state.stop_timeout if timeout is None else timeout)
        # Another stop may be doing the same.
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def running(self, name: str | None = None) -> tuple[Running, ...]:
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        states = [state for folder in folders if (state := self._read(folder.name))]
        wanted = [s for s in states if name in (None, s.labels.get(LABEL_DEPLOYMENT))]
        ranks = []
        for state in wanted:
            # Another command may be removing it.
            with contextlib.suppress(FileNotFoundError):
                ranks.append(self._running(state))
        return tuple(sorted(ranks, key=lambda rank: rank.rank))

    def _running(self, state: State) -> Running:
        session = self._session(state)
        session.reap()
        exit_file = self._folder / state.name / "exit"
        code = exit_file.read_text().strip()
        lives = not code and (session.leader_lives or bool(session.members()))
        ended = datetime.fromtimestamp(exit_file.stat().st_mtime, UTC).isoformat() if code else ""
        return Running(
            host=str(self.host),
            id=state.name,
            name=state.name,
            state="running" if lives else "exited",
            labels=state.labels,
            exit_code=int(code) if code else None,
            started_at=state.started_at,
            finished_at=ended,
        )

    def logs(self, id: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        path = self._folder / id / "log"
        if not path.exists():
            raise HostError(str(self.host), f"{id} is gone, and its log with it")
        with path.open("rb") as file:
            yield from file if tail is None else deque(file, maxlen=tail)
            while follow:
                # Asked before reading: what is written before the end is still shown.
                lives = any(r.id == id and r.state == "running" for r in self.running())
                yield from iter(lambda: file.read(1 << 16), b"")
                follow = lives
                time.sleep(0.2 if lives else 0)

    def progress(self, id: str) -> tuple[Hashable, ...]:
        """(last log line, resident memory in 8 MiB)."""
        state = self._read(id)
        if state is None:
            return ()
        last = b"".join(itertools.islice(self.logs(id, tail=1), 1))
        return sign_of_life(last), self._session(state).memory() * os.sysconf("SC_PAGESIZE") >> 23

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((address, port), timeout)

    def open(self, path: str) -> BinaryIO:
        return Path(path).open("rb")

    def listdir(self, path: str) -> list[str]:
        return [entry.name for entry in Path(path).iterdir()]

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, id: str) -> State | None:
        path = self._folder / id / "state.json"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                state = State(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                state = None
            if state is None or state.version != VERSION:
                raise HostError(
                    str(self.host),
                    f"{path} was not written by this version of flagdeploy",
                    "stop the deployment with the version that started it, or, when nothing of it "
                    f"runs any more, remove {path.parent}",
                )
            return state
        return None

    def _session(self, state: State) -> Session:
        log = self._folder / state.name / "log"
        return Session(state.pid, state.start, state.boot, state.token, log)


def _write(folder: Path, state: State) -> None:
    write_private(folder / "state.json", json.dumps(asdict(state), indent=2).encode())
