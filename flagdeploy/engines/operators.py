"""Switches of operator libraries (FlagGems) in the engine builds that honour them.

Stock engines ignore the switch, so `operators.build` must say which build runs: ``patched`` is an
engine patched by FlagScale or by the chip's vendor, ``plugin`` one with the FL plugin. Both take
variables, which the engine's table names.
"""

from collections.abc import Iterator
from typing import Any

from flagdeploy.config.schema import Deployment
from flagdeploy.engines.arguments import Table


def environment(table: Table, deployment: Deployment) -> dict[str, str]:
    """Variables that switch the library on, or off where a build switches it on by itself."""
    wanted = deployment.operators
    build: dict[str, Any] = table.operators.get(wanted.build) or {}
    if wanted.library == "none":
        return dict(build.get("off") or {})
    env = dict(build.get("on") or {})
    if wanted.include and "include" in build:
        env[build["include"]] = ",".join(wanted.include)
    if wanted.exclude and "exclude" in build:
        env[build["exclude"]] = ",".join(wanted.exclude)
    return env


def problems(table: Table, deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Requests that would have no effect, as (dotted key, what)."""
    wanted = deployment.operators
    if wanted.library == "none":
        return
    if not table.operators:
        yield "operators.library", f"{table.title} has no build that takes {wanted.library}"
        return
    build: dict[str, Any] | None = table.operators.get(wanted.build)
    if build is None:
        builds = " or ".join(table.operators)
        what = f"stock {table.title} ignores {wanted.library}"
        yield "operators.build", f"{what}: use an image built for it and set {builds}"
        return
    if deployment.vendor in (build.get("not_on") or {}):
        yield "operators.build", f"{wanted.build}: {build['not_on'][deployment.vendor]}"
    for key in ("include", "exclude"):
        if getattr(wanted, key) and key not in build:
            what = f"the {wanted.build} build of {table.title} cannot choose operators"
            yield f"operators.{key}", what
