"""An operator library (FlagGems) as an engine build is told of it, and what it cannot be told."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flagdeploy.config.launch import Switch
from flagdeploy.config.schema import Deployment
from flagdeploy.engines.arguments import Table
from flagdeploy.engines.builds import APPENDED, FILE, OVERRIDDEN, Build, text
from flagdeploy.errors import did_you_mean

Finding = tuple[str, str]
TRUE = ("1", "true", "yes")
# Names of Python functions: the lists that carry them have commas between.
_NAME = re.compile(r"[A-Za-z_]\w*")


def environment(table: Table, deployment: Deployment) -> dict[str, str]:
    """Variables that switch the library on, or off: without them it may be on all the same."""
    wanted, build = deployment.operators, table.operators.get(deployment.operators.build)
    if build is None:
        return {}
    if wanted.library == "none":
        return dict(build.off)
    env = dict(build.on)
    if wanted.include is not None:
        env[build.include] = ",".join(wanted.include)
    if wanted.exclude:
        env[build.exclude] = ",".join(wanted.exclude)
    return env | {build.settings[name]: text(value) for name, value in wanted.config.items()}


def switch(table: Table, deployment: Deployment) -> Switch | None:
    """What shows that the library is on, None when it is not wanted."""
    wanted, build = deployment.operators, table.operators.get(deployment.operators.build)
    if wanted.library == "none" or build is None:
        return None
    no_log = _no_log(deployment, build)
    return Switch(
        library=wanted.library,
        variables=tuple(environment(table, deployment)),
        log="" if no_log else build.log,
        no_log=no_log,
        log_at=build.log_at,
        off=build.off,
    )


def problems(table: Table, deployment: Deployment) -> Iterator[Finding]:
    """Requests that would have no effect, or another than asked for, as (dotted key, what)."""
    wanted = deployment.operators
    if wanted.library == "none":
        return
    if not table.operators:
        yield "operators.library", f"{table.title}: {table.no_operators}"
        return
    build = table.operators.get(wanted.build)
    if build is None:
        builds = " or ".join(name for name in table.operators if name != "none")
        if wanted.build == "none":
            what = f"stock {table.title} ignores {wanted.library}"
            yield "operators.build", f"{what}: use an image built for it and set {builds}"
        else:
            what = f"{table.title} has no {wanted.build} build; leave it out"
            yield "operators.build", what + (f", or set {builds}" if builds else "")
        return
    if reason := build.not_on.get(deployment.vendor):
        yield "operators.build", f"{wanted.build}: {reason}"
    yield from _shared(deployment, build)
    yield from _choices(table, deployment, build)
    yield from _settings(table, deployment, build)
    yield from _contradictions(deployment, build)
    if not wanted.compare_native and (reason := _no_log(deployment, build)):
        yield "operators.compare_native", f"nothing else would show the swap: {reason}"


def _no_log(deployment: Deployment, build: Build) -> str:
    """Why no operator log can prove the swap, empty when one can."""
    if deployment.launcher == "local" and build.log.startswith("/"):
        return f"all that runs on this machine shares {build.log}"
    return build.unrecorded_on.get(deployment.vendor, "")


def _shared(deployment: Deployment, build: Build) -> Iterator[Finding]:
    """Another deployment's log, in a folder that is the host's own, would prove this one's swap."""
    log = f"/tmp/{build.log}" if not build.log.startswith("/") else build.log
    for name, place in build.log_at.items():
        log = log.replace(place, str(deployment.container.env.get(name) or place))
    if deployment.launcher == "local" or deployment.vendor in build.unrecorded_on:
        return
    for mount in deployment.container.mounts:
        source, target = (part.rstrip("/") for part in [*mount.split(":"), ""][:2])
        if source == target and log.startswith(f"{target}/"):
            what = f"`{mount}`: the host's folder holds {log} of every deployment that mounts it"
            remedy = "so it proves nothing of one: mount a folder of its own there"
            yield "container.mounts", f"{what}, {remedy}"


def _choices(table: Table, deployment: Deployment, build: Build) -> Iterator[Finding]:
    for key in ("include", "exclude"):
        names: list[str] | None = getattr(deployment.operators, key)
        if names and not getattr(build, key):
            what = (
                f"the {deployment.operators.build} build of {table.title} cannot choose operators"
            )
            yield f"operators.{key}", what
        for name in names or ():
            if not _NAME.fullmatch(name):
                yield f"operators.{key}", f"`{name}` is no name of a function of the library"


def _settings(table: Table, deployment: Deployment, build: Build) -> Iterator[Finding]:
    given: Mapping[str, Any] = deployment.operators.config
    for name in given:
        if name not in build.settings:
            what = f"the {deployment.operators.build} build of {table.title} has no such setting"
            yield f"operators.config.{name}", f"{what}; {did_you_mean(name, list(build.settings))}"
    for name in OVERRIDDEN:
        if FILE in given and name in given and name in build.config:
            yield f"operators.config.{name}", f"is ignored: operators.config.{FILE} replaces it"
    if deployment.operators.include and APPENDED in given and APPENDED in build.config:
        yield f"operators.config.{APPENDED}", "is ignored: operators.include leaves out all others"


def _contradictions(deployment: Deployment, build: Build) -> Iterator[Finding]:
    """Variables that `container` sets win over those of the library."""
    container, wanted = deployment.container, deployment.operators
    places = {"env": container.env}
    places |= {f"rank_env.{rank}": env for rank, env in container.rank_env.items()}
    chosen = {build.include: "include"} if wanted.include else {}
    chosen |= {build.exclude: "exclude"} if wanted.exclude else {}
    # Secrets too, which a proof would show: it compares and prints what was asked for.
    chosen |= {build.settings[n]: f"config.{n}" for n in wanted.config if n in build.settings}
    for place, env in places.items():
        for name, value in env.items():
            if build.on.get(name) == "1" and str(value).lower() not in TRUE:
                what = f"{value} switches off what operators.library asks for"
                recorder = f"{value} switches off the operator log, which proves the swap"
                yield f"container.{place}.{name}", what if name == build.switch else recorder
            if name and name in chosen:
                what = f"is set by flagdeploy: use `operators.{chosen[name]}`"
                yield f"container.{place}.{name}", what
