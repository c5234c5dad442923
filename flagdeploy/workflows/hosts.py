"""`hosts check`: can every host do its part? `hosts trust`: record host keys after showing them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError
from flagdeploy.launchers.base import Launcher, Result
from flagdeploy.workflows.fanout import attempt, each


@dataclass(frozen=True)
class Answers:
    """Hosts that gave the same answer, and hosts that gave none."""

    same: tuple[tuple[tuple[str, ...], str], ...]
    """(hosts, their answer), in the order of the inventory."""
    failures: Mapping[str, HostError]
    exit_codes: Mapping[str, int] = field(default_factory=dict)
    """Of the command, by host; empty without a command."""

    @property
    def ok(self) -> bool:
        return not self.failures and not any(self.exit_codes.values())

    def text(self) -> str:
        lines = []
        for hosts, answer in self.same:
            lines += [f"{', '.join(hosts)}:", *(f"  {line}" for line in answer.splitlines())]
        hints = dict.fromkeys(error.hint for error in self.failures.values() if error.hint)
        lines += [str(error) for error in self.failures.values()]
        return "\n".join([*lines, *(f"hint: {hint}" for hint in hints)])

    def to_dict(self) -> dict[str, Any]:
        same = [{"hosts": list(hosts), "answer": answer} for hosts, answer in self.same]
        return {
            "same": same,
            "failures": {h: str(e) for h, e in self.failures.items()},
            "exit_codes": dict(self.exit_codes),
        }


def check(
    launchers: Mapping[str, Launcher],
    command: Sequence[str] = (),
    *,
    devices: Sequence[str] = (),
) -> Answers:
    """Connect to every host and read what runs there, or run `command` on each.

    Without a command: kernel, Docker engine, device nodes that match `devices`, ranks. Hosts that
    answer alike are put together.
    """

    exit_codes: dict[str, int] = {}

    def describe(launcher: Launcher) -> str:
        if command:
            result = launcher.run(command, timeout=600)
            exit_codes[str(launcher.host)] = result.exit_code
            return _output(result, command)
        facts = launcher.probe("", devices, ())
        kernel = launcher.run(["uname", "-srm"]).text
        nodes = ", ".join(facts.device_nodes) or "none"
        ranks = len(launcher.running())
        engine = launcher.engine_version()
        return f"kernel {kernel}\nengine {engine}\ndevices {nodes}\nranks {ranks}"

    answers, failures = attempt(launchers, describe)
    groups: dict[str, list[str]] = {}
    for host, answer in answers.items():
        groups.setdefault(answer, []).append(host)
    same = tuple((tuple(hosts), answer) for answer, hosts in groups.items())
    refused = {h: e for h, e in failures.items() if isinstance(e, HostError)}
    return Answers(same, refused, exit_codes)


def _output(result: Result, command: Sequence[str]) -> str:
    text = (result.stdout + result.stderr).decode(errors="replace").rstrip()
    code = f"exit code {result.exit_code}: {shlex.join(command)}" if result.exit_code else ""
    return "\n".join(part for part in (text, code) if part)


@dataclass(frozen=True)
class Trusted:
    """Keys by what became of them, each as ``NAME TYPE FINGERPRINT``."""

    added: tuple[str, ...]
    known: tuple[str, ...]
    declined: tuple[str, ...]

    def text(self) -> str:
        parts = (("added", self.added), ("known", self.known), ("declined", self.declined))
        return "\n".join(f"{word} {key}" for word, keys in parts for key in keys)

    def to_dict(self) -> dict[str, Any]:
        return {word: list(keys) for word, keys in vars(self).items()}


def trust(hosts: Sequence[Host], known_hosts_file: Path, confirm: Callable[[str], bool]) -> Trusted:
    """Fetch the keys of `hosts`, show each to `confirm`, and append those it accepts.

    `confirm` gets ``NAME TYPE SHA256:...``, to be compared with what
    ``ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`` prints on the host. A key that differs
    from a recorded one is refused with HostError: trust never overwrites.
    """
    from flagdeploy.launchers import known_hosts
    from flagdeploy.launchers.route import route

    path = known_hosts.override() or known_hosts_file
    routes = {str(host): (host, route(host)) for host in hosts}
    shown = each(routes, lambda pair: known_hosts.fetch(pair[0], pair[1].address, pair[1].port))
    recorded = known_hosts.known(path)
    added, known, declined = [], [], []
    accepted = []
    for key in [key for keys in shown.values() for key in keys]:
        line = f"{key.name} {key.type} {key.fingerprint}"
        entry = recorded.lookup(key.name)
        old = entry.get(key.type) if entry else None
        if old is not None and old.get_base64() != key.base64:
            raise HostError(
                str(key.host),
                f"its {key.type} key has CHANGED: {path} has "
                f"{known_hosts.fingerprint(old.asbytes())}, it shows {key.fingerprint}",
                f"only if you know why it changed: ssh-keygen -f {path} -R '{key.name}'",
            )
        if old is not None:
            known.append(line)
        elif confirm(line):
            added.append(line)
            accepted.append(key)
        else:
            declined.append(line)
    known_hosts.add(path, accepted)
    return Trusted(tuple(added), tuple(known), tuple(declined))
