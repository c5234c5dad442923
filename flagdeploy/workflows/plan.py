"""The plan of a deployment without touching a host: resolve, then plan with empty facts."""

from collections.abc import Sequence
from dataclasses import replace

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.facts import Facts
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.plans.serve import plan_serve
from flagdeploy.plans.steps import Plan
from flagdeploy.workflows import resolve

DRY_RUN = "dry-run"


def plan(
    name: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    hosts: str | None = None,
    launcher: str | None = None,
    until: str | None = None,
    workspace: str | None = None,
    imported: Imported | None = None,
) -> Plan:
    """What `serve` would do on hosts about which nothing is known; through stage `until` only.

    Raises ConfigError with every problem of the configuration.
    """
    root = workspaces.find(workspace)
    loaded, engine, vendor = resolve.deployment(
        name, variant, overrides, hosts=hosts, launcher=launcher, root=root, imported=imported
    )
    chosen = resolve.patch_set(loaded, root)
    planned = plan_serve(
        loaded.deployment,
        loaded.hosts,
        Facts(),
        engine,
        vendor,
        DRY_RUN,
        until=until,
        patch_set=chosen,
    )
    notes = tuple(map(str, imported.notes)) if imported else ()
    return replace(planned, notes=(*notes, *planned.notes))
