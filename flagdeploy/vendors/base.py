"""What is known about a vendor, looked up by file name.

`env/vendors/V.yaml` has two sections: `vendor:` with facts, and `defaults:`, a layer of the
configuration. `flagdeploy/vendors/V.py`, where it exists, parses the output of the vendor's
listing command.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.config.chip import Chip
from flagdeploy.config.schema import Deployment
from flagdeploy.errors import ConfigError, Problem, did_you_mean

_LISTS = ("engines", "device_nodes", "detect", "operator_libraries")


@dataclass(frozen=True)
class Device:
    """One accelerator found on a host. What its tool does not report is None."""

    index: int
    name: str
    uuid: str = ""
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    driver: str = ""


@dataclass(frozen=True)
class Plugin:
    """What a vendor changes in an engine, as a package that the engine loads by itself: the modern
    form of a patch set."""

    package: str
    index: str = ""
    """Package index that has it, beside PyPI; empty: PyPI has it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it needs on this vendor's hosts."""

    @property
    def install(self) -> tuple[str, ...]:
        """The command that puts it into an image."""
        index = ("--extra-index-url", self.index) if self.index else ()
        return ("pip", "install", *index, self.package)


@dataclass(frozen=True)
class Vendor:
    """Facts about one vendor's hosts and chips."""

    name: str
    chips: Mapping[str, Chip] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    """The only engines that run on it; empty: any that does not name its vendors itself."""
    visible_devices: str = ""
    """Variable that limits a process to some devices."""
    device_nodes: tuple[str, ...] = ()
    """Patterns of the device files, one file for each device."""
    detect: tuple[str, ...] = ()
    """Command that lists the devices; `devices` reads its output."""
    operator_libraries: tuple[str, ...] = ()
    """The operator libraries that have a backend for its chips."""
    plugin: Mapping[str, Plugin] = field(default_factory=dict)
    """By engine: what `operators.build: plugin` means on this vendor."""

    def chip(self, name: str) -> Chip | None:
        """The chip called `name`, None when no name is given or none is known by it."""
        return self.chips.get(name)

    def problems(self, deployment: Deployment) -> list[tuple[str, str]]:
        """What of `deployment` this vendor cannot do, as (dotted key, what)."""
        found = []
        if deployment.chip and deployment.chip not in self.chips:
            hint = did_you_mean(deployment.chip, list(self.chips))
            found.append(("chip", f"{self.name} has no chip `{deployment.chip}`; {hint}"))
        if self.engines and deployment.engine not in self.engines:
            what = f"{self.name} runs {', '.join(self.engines)}, not {deployment.engine}"
            found.append(("engine", what))
        library = deployment.operators.library
        if library not in ("none", *self.operator_libraries):
            found.append(("operators.library", f"{library} has no backend for {self.name}"))
        return found

    def devices(self, listing: str) -> list[Device]:
        """The devices in `listing`, the output of the `detect` command.

        Raises FlagdeployError when the output is not what the tool is known to write.
        """
        module = f"flagdeploy.vendors.{self.name}"
        if find_spec(module) is None:
            return []
        parse: Callable[[str], list[Device]] = import_module(module).devices
        return parse(listing)


def names(workspace: Path) -> list[str]:
    """Vendors that have a file in the workspace."""
    return sorted(path.stem for path in _folder(workspace).glob("*.yaml"))


def load(name: str, workspace: Path) -> Vendor:
    """The facts about vendor `name`.

    Raises ConfigError with a suggestion when no file is called that.
    """
    path = _folder(workspace) / f"{name}.yaml"
    if name not in names(workspace):
        problem = Problem("", "vendor", f"unknown vendor `{name}`")
        raise ConfigError([problem], did_you_mean(name, names(workspace)))
    facts: dict[str, Any] = yaml_file.read(path).data.get("vendor") or {}
    chips = {key: _chip(key, value) for key, value in (facts.pop("chips", None) or {}).items()}
    unknown = set(facts) - {*_LISTS, "visible_devices", "plugin"}
    problems = [Problem(str(path), f"vendor.{key}", "unknown key") for key in sorted(unknown)]
    plugins: dict[str, Any] = facts.get("plugin") or {}
    problems += [
        Problem(str(path), f"vendor.plugin.{engine}", what)
        for engine, plugin in plugins.items()
        if (what := _plugin_problem(plugin))
    ]
    if problems:
        raise ConfigError(problems)
    plugin = {engine: Plugin(**given) for engine, given in plugins.items()}
    lists = {key: tuple(facts.get(key) or ()) for key in _LISTS}
    return Vendor(
        name, chips, plugin=plugin, visible_devices=facts.get("visible_devices", ""), **lists
    )


def _plugin_problem(given: Any) -> str:
    if not isinstance(given, dict) or "package" not in given:
        return "expected {package: NAME, index: URL, environment: {NAME: value}}"
    if unknown := set(given) - {"package", "index", "environment"}:
        return f"unknown key `{min(unknown)}`"
    environment = given.get("environment") or {}
    texts = [given["package"], given.get("index", ""), *environment.values()]
    return "" if all(isinstance(text, str) for text in texts) else "its values are text: quote them"


def _chip(name: str, facts: Mapping[str, Any]) -> Chip:
    return Chip(name, facts["memory_gib"], tuple(facts["precisions"]), facts.get("converts", False))


def _folder(workspace: Path) -> Path:
    return workspace / "env" / "vendors"
