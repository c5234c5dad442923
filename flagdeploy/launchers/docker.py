"""A host's Docker engine through the Engine API, over whatever connection reaches it.

Environment and secrets travel in the body of a request, never in a command line. Containers are
ours when they carry our labels; no other is ever stopped or removed.
"""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import docker
import docker.errors
import docker.utils
import requests
import urllib3

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_RUN,
    LABEL_SPEC,
    ContainerSpec,
    File,
    Running,
    UntrustedSpec,
)
from flagdeploy.errors import HostError
from flagdeploy.launchers import container, frames
from flagdeploy.launchers.base import Result, sign_of_life
from flagdeploy.launchers.dialling import Adapter, Dial
from flagdeploy.records.events import Event, Report

# The SDK wants an address; the adapter replaces the way there.
_ADDRESS = "tcp://docker.invalid:2375"
REQUEST_TIMEOUT_S = 60
REMOVAL_TIMEOUT_S = 60  # for whoever else removes a container
DEFAULT_STOP_TIMEOUT_S = 30

# States of a layer that tell nothing.
SILENT = ("Pulling fs layer", "Waiting", "Verifying Checksum", "Download complete")

# Part of the engine's own message -> what to do about it.
HINTS = {
    "docker-init": "container.init=false, or install docker-init (tini) on the host",
    "no such image": "flagdeploy pull --image fetches it on every host",
    "manifest unknown": "check the tag in the registry",
    "could not select device driver": "install the NVIDIA container toolkit on the host",
    "unknown runtime": "install the vendor's container runtime, or set container.runtime",
    "unknown or invalid runtime": "install the vendor's runtime, or set container.runtime",
    "bind source path does not exist": "create that path on the host, or correct container.mounts",
    "error gathering device information": "is the driver loaded? see container.devices",
    "operation not permitted": "the host forbids what the container asks for",
    "no space left on device": "free disk space on the host (docker system df)",
    "unauthorized": "docker login on this machine for that registry",
    "pull access denied": "does the image exist? docker login on this machine for a private one",
    "permission denied": "add the SSH user to the docker group of the host",
}


class Engine:
    """The Engine API of one host; `dial` opens one stream to it."""

    def __init__(self, host: str, dial: Dial) -> None:
        self.host = host
        self._dial = dial
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            with self._errors("Docker engine"):
                # The oldest API version that an engine accepts rises over the years.
                version = self._new_client(None).version(api_version=False)["ApiVersion"]
                self._client = self._new_client(version)
        return self._client

    def version(self) -> str:
        with self._errors("version"):
            return str(self.client.version()["Version"])

    def images(self) -> dict[str, str]:
        """Ids by every name under which the engine holds an image, ids included."""
        with self._errors("list images"):
            found = self.client.images()
        names = {name: image["Id"] for image in found for key in ("RepoTags", "RepoDigests")
                 for name in image[key] or ()}  # fmt: skip
        names |= {image["Id"]: image["Id"] for image in found}
        return names | {name.removesuffix(":latest"): id for name, id in names.items()}

    def pull(self, image: str, report: Report) -> str:
        """Pull `image` and return its id; the engine tells bytes per layer, or fails meanwhile."""
        repository, tag = docker.utils.parse_repository_tag(image)
        with self._errors(f"pull {image}"):
            for line in self.client.pull(repository, tag or "latest", stream=True, decode=True):
                if "error" in line:
                    raise docker.errors.APIError(line["error"], explanation=line["error"])
                if line["status"] not in SILENT:
                    report(_pull_event(self.host, image, line))
            return str(self.client.inspect_image(image)["Id"])

    def start(self, spec: ContainerSpec) -> str:
        """Create and start; the same rank of the same run is created once however often asked.

        Raises HostError when the name belongs to a container that is not ours, or to an older
        rank; neither is touched.
        """
        body = container.create_body(spec)
        try:
            answer = self.client.create_container_from_config(body, spec.name)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise self._error(f"create {spec.name}", error) from None
            return self._start_existing(spec)
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise self._error(f"create {spec.name}", error) from None
        created = answer["Id"]
        try:
            if isinstance(spec, UntrustedSpec):
                self._check_confined(spec, answer)
            with self._errors(f"start {spec.name}"):
                if spec.files:
                    folder = spec.inbox if isinstance(spec, UntrustedSpec) else "/"
                    self.client.put_archive(created, folder, container.archive(spec.files, folder))
                self.client.start(created)
        except HostError:
            with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
                self.client.remove_container(created, v=True, force=True)
            raise
        return str(created)

    def _check_confined(self, spec: UntrustedSpec, answer: Mapping[str, Any]) -> None:
        """An engine that lacks a limit of the kernel warns, and would run it without."""
        if warnings := answer.get("Warnings"):
            raise HostError(
                self.host,
                f"create {spec.name}: not every limit can be enforced: {'; '.join(warnings)}",
                "choose a host whose kernel has the memory, pids and cpu cgroups",
            )

    def _start_existing(self, spec: ContainerSpec) -> str:
        with self._errors(f"create {spec.name}"):
            found = self.client.inspect_container(spec.name)
        labels = found["Config"]["Labels"] or {}
        if LABEL_DEPLOYMENT not in labels:
            raise HostError(
                self.host,
                f"the name {spec.name} belongs to a container that flagdeploy did not start "
                f"({found['Id'][:12]}, image {found['Config']['Image']})",
                f"rename it (docker rename {spec.name} NEW) or remove it yourself",
            )
        same = (LABEL_RUN, LABEL_SPEC, LABEL_DEPLOYMENT)
        if any(labels.get(label) != spec.labels.get(label) for label in same):
            raise HostError(
                self.host,
                f"{spec.name} exists from another run of {labels[LABEL_DEPLOYMENT]}",
                f"flagdeploy stop {labels[LABEL_DEPLOYMENT]}",
            )
        with self._errors(f"start {spec.name}"):
            self.client.start(found["Id"])
        return str(found["Id"])

    def put(self, id: str, files: Sequence[File]) -> None:
        """Write files into a container, in its mounted folders too, as root and readable by all."""
        with self._errors(f"write into {id[:12]}"):
            self.client.put_archive(id, "/", container.archive(files))

    def inside(self, id: str, argv: Sequence[str], timeout: float) -> Result:
        """Run a command in a running container to its end, and take both of its outputs."""
        with self._errors(f"`{argv[0]}` in {id[:12]}"):
            begun = self.client.exec_create(id, list(argv))["Id"]
            # Without the SDK's request to switch protocols: the answer is plain HTTP until its end.
            with self.client.post(
                self.client._url("/exec/{0}/start", begun),
                json={"Detach": False, "Tty": False},
                stream=True,
                timeout=timeout,
            ) as answer:
                self.client._raise_for_status(answer)
                stdout, stderr = frames.split(answer.iter_content(1 << 16))
            return Result(self.client.exec_inspect(begun)["ExitCode"], stdout, stderr)

    def stop(self, id: str, timeout: int | None = None) -> None:
        """SIGTERM, SIGKILL after `timeout` seconds (None: the container's own), remove.

        Containers of others are refused; one that is gone is no error.
        """
        with self._errors(f"stop {id[:12]}"):
            try:
                config = self.client.inspect_container(id)["Config"]
                if LABEL_DEPLOYMENT not in (config["Labels"] or {}):
                    raise HostError(self.host, f"container {id[:12]} is not flagdeploy's")
                own = config.get("StopTimeout")
                own = DEFAULT_STOP_TIMEOUT_S if own is None else own
                self.client.stop(id, timeout=own if timeout is None else timeout)
                self.client.remove_container(id, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                # Another thread, or another command, is removing it.
                if error.status_code != 409 or "in progress" not in str(error.explanation):
                    raise
                with contextlib.suppress(docker.errors.NotFound):
                    self.client.wait(id, REMOVAL_TIMEOUT_S, "removed")

    def running(self, name: str | None) -> tuple[Running, ...]:
        label = LABEL_DEPLOYMENT if name is None else f"{LABEL_DEPLOYMENT}={name}"
        ranks = []
        with self._errors("list containers"):
            for entry in self.client.containers(all=True, filters={"label": [label]}):
                # It may have been removed since the list was made.
                with contextlib.suppress(docker.errors.NotFound):
                    ranks.append(_running(self.host, self.client.inspect_container(entry["Id"])))
        return tuple(sorted(ranks, key=lambda rank: rank.rank))

    def logs(self, id: str, follow: bool, tail: int | None) -> Iterator[bytes]:
        with self._errors(f"logs of {id[:12]}"):
            pieces = self.client.logs(
                id, stdout=True, stderr=True, stream=True, follow=follow,
                tail="all" if tail is None else tail,
            )  # fmt: skip
            try:
                yield from pieces
            finally:
                pieces.close()

    def progress(self, id: str) -> tuple[Hashable, ...]:
        """(last log line, memory in 8 MiB, disk input and output in MiB)."""
        last = b"".join(self.logs(id, follow=False, tail=1))
        with self._errors(f"statistics of {id[:12]}"):
            stats = self.client.stats(id, stream=False, one_shot=True)
        memory = (stats.get("memory_stats") or {}).get("usage", 0)
        transfers = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
        moved = sum(entry["value"] for entry in transfers)
        return sign_of_life(last), memory >> 23, moved >> 20

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self, version: str | None) -> Any:
        client = docker.APIClient(_ADDRESS, version=version or "1.41", timeout=REQUEST_TIMEOUT_S)
        # The way leads through SSH: no proxy of this machine has a part in it.
        client.trust_env = False
        client.mount("http://", Adapter(self._dial))
        return client

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (
            docker.errors.DockerException,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
            EOFError,
        ) as error:
            raise self._error(what, error) from None

    def _error(self, what: str, error: Exception) -> HostError:
        cause: BaseException | None = error
        while cause is not None:  # dialling fails inside two HTTP libraries
            if isinstance(cause, HostError):
                return cause
            cause = cause.__cause__ or cause.__context__
        text = str(getattr(error, "explanation", None) or error)
        if isinstance(error, requests.ConnectionError):
            text = "the connection to the Docker engine was lost"
        hint = next((hint for part, hint in HINTS.items() if part in text.lower()), None)
        return HostError(self.host, f"{what}: {text}", hint)


def _running(host: str, found: Mapping[str, Any]) -> Running:
    state = found["State"]
    ended = state["Status"] in ("exited", "dead", "removing")
    return Running(
        host=host,
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        state="exited" if ended else "created" if state["Status"] == "created" else "running",
        labels=found["Config"]["Labels"],
        exit_code=state["ExitCode"] if ended else None,
        started_at=_moment(state["StartedAt"]),
        finished_at=_moment(state["FinishedAt"]) if ended else "",
        oom_killed=state["OOMKilled"],
        image=found["Image"],
    )


def _moment(text: str) -> str:
    # The engine's way to say "never".
    return "" if text.startswith("0001-") else text


def _pull_event(host: str, image: str, line: Mapping[str, Any]) -> Event:
    """Each layer is counted by itself, so its id is part of the stage."""
    detail = line.get("progressDetail") or {}
    layer, status = line.get("id"), line["status"]
    message = f"{image}: {layer}: {status}" if layer else f"{image}: {status}"
    stage = f"pull {layer}" if layer else "pull"
    return Event(stage, message, host, detail.get("current"), detail.get("total"), "B")
