"""What all engines share: find the table, judge a deployment, make one command for each rank.

An engine is one module `flagdeploy/engines/E.py` with a class `Engine`, which holds only what sets
it apart, and one table `env/engines/E.yaml`. Both are looked up by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from flagdeploy.config import keys
from flagdeploy.config.launch import EnvValue, Host, RankCommand, StageCommand, Switch
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import arguments, operators, stages
from flagdeploy.engines.arguments import Argument, Table
from flagdeploy.errors import ConfigError, Problem, did_you_mean

Finding = tuple[str, str]

# Keys that say what and where, which plans and launchers carry out for every engine alike.
_NEUTRAL = {
    "name",
    "variant",
    "vendor",
    "chip",
    "torch_device",
    "engine",
    "engine_version",
    "launcher",
    "hostfile",
    "max_hosts",
    "engine_args",
    "environment_allowlist",
    "model.repo",
    "model.revision",
    "model.checkpoint",
    "model.source",
    "model.served_name",
    "model.precision",
    "endpoint.host",
    "endpoint.port",
    "endpoint.master_port",
}
_NEUTRAL_SECTIONS = (
    "container.", "readiness.", "model.architecture.", "operators.", "stages.", "patch.",
)  # fmt: skip
_RELAXED = "speculative.relaxed_acceptance"
# How like another (difflib's ratio) a name must be: one letter more or less of a dozen.
_A_SLIP = 0.93

# Keys that depend on one another: a table of single arguments cannot say them.
DEGREES_AND_DRAFTS = frozenset(
    {
        "parallel.tensor",
        "parallel.pipeline",
        "parallel.data",
        "parallel.expert",
        "parallel.attention_data",
        "speculative.method",
        "speculative.num_tokens",
        "speculative.eagle_topk",
        "speculative.draft_checkpoint",
    }
)


class Engine(ABC):
    """One engine and its table."""

    handled: ClassVar[frozenset[str]] = frozenset()
    """Keys that the module itself turns into arguments (topology, speculative decoding)."""

    def __init__(self, name: str, table: Table) -> None:
        self.name = name
        self.table = table

    def commands(self, deployment: Deployment, hosts: Sequence[Host]) -> tuple[RankCommand, ...]:
        """What each rank runs, in rank order: one rank on each host."""
        return tuple(self.command(deployment, hosts, rank) for rank in range(len(hosts)))

    @abstractmethod
    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        """What rank `rank` runs on ``hosts[rank]``."""

    def stages(self, deployment: Deployment) -> tuple[StageCommand, ...]:
        """The vendor's converters to run before the ranks, in order."""
        return stages.commands(self.table, deployment, self.words(deployment))

    def switch(self, deployment: Deployment) -> Switch | None:
        """What shows in a rank that its operator library is on; None when none is wanted."""
        return operators.switch(self.table, deployment)

    def words(self, deployment: Deployment) -> dict[str, str]:
        """What `{WORD}` stands for in this engine's converters, beside source and product."""
        return {"layers": str(deployment.model.architecture.num_hidden_layers)}

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        """Problems that only this engine has."""
        return iter(())

    def topology(self, deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
        """Problems of this engine with these hosts."""
        return iter(())

    def meeting_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        """The hosts on which a rank listens on `endpoint.master_port`: the first of several."""
        return hosts[:1] if len(hosts) > 1 else ()

    def notes(self, deployment: Deployment) -> list[str]:
        """Warnings for the reader of a plan."""
        now, newest = self.version(deployment), self.table.newest
        misspelt = list(self._nearly_owned(deployment))
        if arguments.version(now) > arguments.version(newest):
            checked = f"the arguments were compared with {self.table.title} {newest}"
            return [f"{checked}, not with {now}: `--help` of the image decides", *misspelt]
        return misspelt

    def served_name(self, deployment: Deployment) -> str:
        """The name under which the endpoint knows the model."""
        model = deployment.model
        return model.served_name or model.repo or deployment.name

    def problems(self, deployment: Deployment, hosts: Sequence[Host] = ()) -> list[tuple[str, str]]:
        """What of `deployment` this engine, in this version, cannot do, as (dotted key, what)."""
        found = list(self._fundamental(deployment))
        for key, setting in changed(deployment).items():
            found += self._key_problems(key, setting, deployment)
        found += self._engine_args_problems(deployment)
        found += operators.problems(self.table, deployment)
        found += stages.problems(self.table, deployment, self.version(deployment))
        found += self.rules(deployment)
        found += self.topology(deployment, hosts)
        return found

    def version(self, deployment: Deployment) -> str:
        return deployment.engine_version or self.table.newest

    def model(self, deployment: Deployment) -> str:
        """The folder of the weights, or the repository."""
        return deployment.model.checkpoint or deployment.model.repo

    def rows(self, deployment: Deployment) -> list[Argument]:
        """The rows of the table that hold for the engine's version."""
        now = self.version(deployment)
        return [argument for argument in self.table.arguments if argument.holds(now)]

    def flags(self, deployment: Deployment) -> list[str]:
        """Flags of all keys that were set, then `engine_args`."""
        flags = arguments.flags(self.rows(deployment), changed(deployment))
        return [*flags, *arguments.extra(deployment.engine_args)]

    def environment(self, deployment: Deployment) -> dict[str, EnvValue]:
        """Variables of all keys that were set, and of the operator library."""
        settings = changed(deployment)
        env: dict[str, EnvValue] = {**arguments.environment(self.rows(deployment), settings)}
        return {**env, **operators.environment(self.table, deployment)}

    def knows(self, key: str) -> bool:
        """Is `key` mapped, handled or refused? Every key of the schema must be."""
        return (
            neutral(key)
            or key in self.handled
            or key in self.table.unsupported
            or bool(self.table.of(key))
        )

    def _fundamental(self, deployment: Deployment) -> Iterator[Finding]:
        table = self.table
        if table.vendors and deployment.vendor not in table.vendors:
            what = f"{table.title} runs on {', '.join(table.vendors)}, not on {deployment.vendor}"
            yield "engine", what
        if arguments.version(self.version(deployment)) < arguments.version(table.oldest):
            what = f"{deployment.engine_version}: the argument table starts at {table.oldest}"
            yield "engine_version", what

    def _key_problems(self, key: str, setting: Any, deployment: Deployment) -> Iterator[Finding]:
        if key in self.table.unsupported:
            yield key, f"{self.table.title}: {self.table.unsupported[key]}"
        rows = self.table.of(key)
        holding = [row for row in rows if row.holds(self.version(deployment))]
        if rows and not holding:
            spans = ", ".join(f"since {r.since}" if r.since else f"until {r.until}" for r in rows)
            version = self.version(deployment)
            yield key, f"{self.table.title} {version} has no argument for it ({spans})"
        for row in holding:
            if reason := row.refuse.get(str(setting).lower()):
                yield key, f"{self.table.title} does not take {setting}: {reason}"

    def _engine_args_problems(self, deployment: Deployment) -> Iterator[Finding]:
        names = self.owned_names()
        for name in self.extra_names(deployment):
            if not name.strip("-"):
                yield "engine_args", f"`{name}` is no name of an argument"
            if key := names.get(canonical(name)):
                yield f"engine_args.{name}", f"is set by flagdeploy: use `{key}`"

    def _nearly_owned(self, deployment: Deployment) -> Iterator[str]:
        """Arguments that look like a known one with a slip; the engine itself may know better."""
        if not deployment.engine_args:
            return
        import difflib  # few deployments have arguments of their own

        owned = self.owned_names()
        for name in self.extra_names(deployment):
            close = difflib.get_close_matches(canonical(name), owned, 1, _A_SLIP)
            if close and close[0] != canonical(name):
                yield f"engine_args.{name} is passed as it is: did you mean `{owned[close[0]]}`?"

    def extra_names(self, deployment: Deployment) -> list[str]:
        """The names that `engine_args` sets."""
        return list(deployment.engine_args)

    def owned_names(self) -> dict[str, str]:
        """Names that `engine_args` may not set, each with the key to use instead."""
        flags = {canonical(row.flag): row.key for row in self.table.arguments if row.flag}
        return {**flags, **{canonical(name): key for name, key in self.table.owned.items()}}


def canonical(name: str) -> str:
    """A flag without dashes in front and with one spelling: ``--no-x_y`` is ``x-y``."""
    return name.lstrip("-").replace("_", "-").removeprefix("no-")


def neutral(key: str) -> bool:
    """Is `key` carried out outside of the engines?"""
    return key in _NEUTRAL or key.startswith(_NEUTRAL_SECTIONS)


def knobs() -> list[str]:
    """Every key of the schema; relaxed acceptance, a section that may be absent, counts as one."""
    names = [str(key) for key in keys.schema_keys().values()]
    return list(dict.fromkeys(_RELAXED if name.startswith(_RELAXED) else name for name in names))


def changed(deployment: Deployment) -> dict[str, Any]:
    """The keys whose value differs from the schema's default: those that were set."""
    found: dict[str, Any] = {}
    for path, key in keys.schema_keys().items():
        if str(key).startswith(_RELAXED):
            continue
        value: Any = deployment
        for name in path:
            value = getattr(value, name)
        if value != key.default:
            found[str(key)] = value
    if deployment.speculative.relaxed_acceptance is not None:
        found[_RELAXED] = deployment.speculative.relaxed_acceptance
    return found


def names(workspace: Path) -> list[str]:
    """Engines that have a table in the workspace."""
    return sorted(path.stem for path in _folder(workspace).glob("*.yaml"))


def load(name: str, workspace: Path) -> Engine:
    """The engine called `name`.

    Raises ConfigError with a suggestion when no table is called that.
    """
    if name not in names(workspace):
        problem = Problem("", "engine", f"unknown engine `{name}`")
        raise ConfigError([problem], did_you_mean(name, names(workspace)))
    module = import_module(f"flagdeploy.engines.{name}")
    engine: Engine = module.Engine(name, arguments.read(_folder(workspace) / f"{name}.yaml"))
    return engine


def _folder(workspace: Path) -> Path:
    return workspace / "env" / "engines"
