"""The inventory of hosts: FlagScale's and DeepSpeed's grammar with per-host access added.

::

    # one line for one host; the first is rank 0
    192.0.2.1 slots=8 type=h100 user=deploy port=2222 docker=unix:///run/docker.sock
    node[01-04,7] slots=8          # several hosts with the same settings
    192.0.2.9                      # one device

Names are restricted to what cannot be taken for an option or for shell text: they reach SSH.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from flagdeploy.config.launch import Host
from flagdeploy.errors import ConfigError, Problem

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_BRACKETS = re.compile(
    r"(?P<head>[A-Za-z0-9._-]+)\[(?P<ranges>[^\[\]]*)\](?P<tail>[A-Za-z0-9._-]*)"
)
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_VALUES = {
    "slots": re.compile(r"[0-9]{1,6}"),
    "port": re.compile(r"[0-9]{1,5}"),
    "type": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"),
    "user": re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*"),
    "docker": re.compile(r"unix://(/[A-Za-z0-9_.-]+)+"),
}
_MOST_HOSTS = 4096


@dataclass(frozen=True)
class _Line:
    number: int
    hosts: tuple[Host, ...]


def read(path: Path) -> tuple[Host, ...]:
    """The hosts of file `path` in rank order.

    Raises ConfigError with every problem as ``file:line``.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "hostfile", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "hostfile", f"cannot be read: {error}")]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> tuple[Host, ...]:
    """As `read`, from text that stands for file `name` in messages."""
    lines, problems = [], []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        content = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].strip()
        if not content:
            continue
        try:
            lines.append(_Line(number, _hosts(content.split())))
        except ValueError as error:
            problems.append(Problem(f"{name}:{number}", "", str(error)))
    problems += _duplicates(lines, name) + _mixed_types(lines, name)
    if not lines and not problems:
        problems.append(Problem(name, "", "no host in it"))
    if problems:
        raise ConfigError(problems)
    return tuple(host for line in lines for host in line.hosts)


def _hosts(words: list[str]) -> tuple[Host, ...]:
    names = _expand(words[0])
    settings: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in _VALUES:
            known = ", ".join(f"{key}=" for key in _VALUES)
            raise ValueError(f"unexpected `{word}`: after the host come {known}")
        if key in settings:
            raise ValueError(f"`{key}=` stands twice")
        settings[key] = _checked(key, value)
    port = int(settings.get("port", "22"))
    slots = int(settings.get("slots", "1"))
    if not 0 < port < 65536:
        raise ValueError(f"`port={port}`: a port lies between 1 and 65535")
    if slots < 1:
        raise ValueError(f"`slots={slots}`: a host has at least one slot")
    kind, user, docker = settings.get("type", ""), settings.get("user"), settings.get("docker")
    return tuple(Host(name, slots, kind, user, port, docker) for name in names)


def _checked(key: str, value: str) -> str:
    if _VALUES[key].fullmatch(value):
        return value
    glued = re.fullmatch(r"(.+?)((?:slots|type|user|port|docker)=.*)", value)
    if glued:
        raise ValueError(f"`{key}={value}`: put a space before `{glued[2]}`")
    wanted = {"slots": "a number", "port": "a number", "docker": "unix:///path/of/the/socket"}
    raise ValueError(f"`{key}={value}`: {wanted.get(key, 'letters, digits and . _ -')} is expected")


def _expand(word: str) -> list[str]:
    """The host names of `word`: ``n[01-03,7]`` is n01, n02, n03, n7."""
    match = _BRACKETS.fullmatch(word)
    if not match:
        return [_host_name(word)]
    numbers: list[str] = []
    for part in match["ranges"].split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            raise ValueError(f"`{word}`: `{part}` is no number and no range such as 01-04")
        first, last = found[1], found[2] or found[1]
        if not 0 <= int(last) - int(first) < _MOST_HOSTS:
            raise ValueError(f"`{word}`: `{part}` is empty or longer than {_MOST_HOSTS} hosts")
        numbers += [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [_host_name(match["head"] + number + match["tail"]) for number in numbers]


def _host_name(word: str) -> str:
    if "@" in word:
        user, _, host = word.rpartition("@")
        raise ValueError(f"`{word}`: write `{host} user={user}`")
    if _HOST.fullmatch(word):
        return word
    if address := _ip_address(word.removeprefix("[").removesuffix("]")):
        return address
    if re.fullmatch(r"[^:]+:[0-9]+", word):
        host, _, number = word.partition(":")
        raise ValueError(f"`{word}`: write `{host} slots={number}`, or `{host} port={number}`")
    raise ValueError(f"`{word}` is no host name or address")


def _ip_address(word: str) -> str | None:
    """`word` if it is an address; a zone (``%eth0``) is refused, it may hold any text."""
    import ipaddress  # most inventories hold names, or addresses that look like one

    try:
        return None if "%" in word else str(ipaddress.ip_address(word))
    except ValueError:
        return None


def _duplicates(lines: list[_Line], name: str) -> list[Problem]:
    first: dict[tuple[str, int], int] = {}
    problems = []
    for line in lines:
        for host in line.hosts:
            place = (host.address.lower(), host.port)
            if place in first:
                what = f"`{host.address}` stands already in line {first[place]}"
                problems.append(Problem(f"{name}:{line.number}", "", what))
            first.setdefault(place, line.number)
    return problems


def _mixed_types(lines: list[_Line], name: str) -> list[Problem]:
    """Either every line says its type or none does (FlagScale's rule)."""
    without = [line for line in lines if not line.hosts[0].type]
    if not without or len(without) == len(lines):
        return []
    what = "no `type=`, but other lines have one: give all a type or none"
    return [Problem(f"{name}:{line.number}", "", what) for line in without]
