"""Start a deployment: resolve ▸ probe ▸ plan ▸ execute ▸ record."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from flagdeploy.config import endpoint
from flagdeploy.config import workspace as workspaces
from flagdeploy.config.load import Loaded
from flagdeploy.config.plain import plain
from flagdeploy.config.secret import Secret
from flagdeploy.plans.serve import plan_serve
from flagdeploy.plans.steps import Plan
from flagdeploy.records.events import Report, silent
from flagdeploy.records.lock import deployment_lock
from flagdeploy.records.run import Run
from flagdeploy.workflows import places, resolve
from flagdeploy.workflows.execute import Outcome, execute
from flagdeploy.workflows.probe import probe


@dataclass(frozen=True)
class Served:
    """A deployment that generates tokens. `changed` is False when it already ran like this."""

    name: str
    url: str
    model: str
    changed: bool
    run: str
    outcome: Outcome

    def text(self) -> str:
        state = "is serving" if self.changed else "was serving already; nothing changed"
        return f"{self.name} {state}\n  endpoint {self.url}\n  model    {self.model}"

    def to_dict(self) -> dict[str, Any]:
        steps = [vars(result) for result in self.outcome.results]
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "outcome": steps}


def serve(
    name: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    hosts: str | None = None,
    launcher: str | None = None,
    workspace: str | None = None,
    report: Report = silent,
) -> Served:
    """Bring deployment `name` up on its hosts and wait until it generates a token.

    A second call with the same settings changes nothing. Raises ConfigError before anything is
    touched, HostError or EngineError when a host or a rank fails; then nothing is left running.
    """
    root = workspaces.find(workspace)
    loaded, engine, vendor = resolve.deployment(
        name, variant, overrides, hosts=hosts, launcher=launcher, root=root
    )
    deployment, state = loaded.deployment, workspaces.state_folder(root)
    with (
        deployment_lock(state, deployment.name),
        places.open_places([places.of(loaded)], root) as launchers,
    ):
        facts = probe(
            launchers,
            deployment.name,
            devices=deployment.container.devices,
            ports=[deployment.endpoint.port, deployment.endpoint.master_port],
            report=report,
        )
        run = Run.create(state, deployment.name, _secrets(deployment))
        plan = plan_serve(
            deployment, loaded.hosts, facts, engine, vendor, run.id, python=sys.executable
        )
        _record(run, loaded, plan)
        try:
            outcome = execute(plan, launchers, run, report)
        except BaseException as error:
            run.write_json("result.json", {"status": "failed", "error": run.mask(str(error))})
            raise
    run.write_json("result.json", {"status": "succeeded", "changed": bool(plan.changes)})
    url = endpoint.url(deployment, loaded.hosts)
    changed = any(step.stage.startswith("start") for step in plan.changes)
    return Served(deployment.name, url, deployment.model.served_name, changed, run.id, outcome)


def _record(run: Run, loaded: Loaded, plan: Plan) -> None:
    import yaml

    run.write("config.yaml", yaml.safe_dump(plain(loaded.deployment), sort_keys=False))
    run.write("plan.json", plan.to_json() + "\n")
    places.record(run, places.of(loaded))


def _secrets(value: Any) -> Iterator[Secret]:
    """Every secret inside a configuration."""
    if isinstance(value, Secret):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from _secrets(getattr(value, item.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
