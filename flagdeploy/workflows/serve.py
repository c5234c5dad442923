"""Start a deployment: resolve ▸ probe ▸ plan ▸ execute ▸ record."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy.config import endpoint, yaml_file
from flagdeploy.config import workspace as workspaces
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.config.load import Loaded
from flagdeploy.config.plain import plain
from flagdeploy.config.secret import Secret
from flagdeploy.engines.base import Engine
from flagdeploy.plans.serve import plan_serve
from flagdeploy.plans.stages import until_stage
from flagdeploy.plans.steps import Convert, Plan
from flagdeploy.records.events import Report, silent
from flagdeploy.records.lock import deployment_lock
from flagdeploy.records.run import Run
from flagdeploy.vendors.base import Vendor
from flagdeploy.workflows import native, places, resolve
from flagdeploy.workflows.execute import Outcome, execute
from flagdeploy.workflows.probe import probe

PROOFS = ("ProveSwap", "CompareNative")


@dataclass(frozen=True)
class Served:
    """A deployment that generates tokens. `changed` is False when it already ran like this."""

    name: str
    url: str
    model: str
    changed: bool
    run: str
    outcome: Outcome
    proof: tuple[str, ...] = ()
    """What shows that the operator library is on, when one was asked for."""

    def text(self) -> str:
        state = "is serving" if self.changed else "was serving already; nothing changed"
        lines = [f"{self.name} {state}", f"  endpoint {self.url}", f"  model    {self.model}"]
        lines += [f"  proof    {line}" for line in self.proof]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return _to_dict(self)


@dataclass(frozen=True)
class Prepared:
    """Stages carried out; `products` are the folders that they made, or had made before."""

    name: str
    products: tuple[str, ...]
    changed: bool
    run: str
    outcome: Outcome

    def text(self) -> str:
        state = "is made" if self.changed else "was there already; nothing changed"
        return "\n".join(f"{self.name}: {product} {state}" for product in self.products)

    def to_dict(self) -> dict[str, Any]:
        return _to_dict(self)


def serve(
    name: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    hosts: str | None = None,
    launcher: str | None = None,
    workspace: str | None = None,
    imported: Imported | None = None,
    report: Report = silent,
) -> Served:
    """Bring deployment `name` up on its hosts and wait until it generates a token.

    A second call with the same settings changes nothing. Raises ConfigError before anything is
    touched, HostError or EngineError when a host or a rank fails; then nothing is left running.
    """
    root = workspaces.find(workspace)
    resolved = resolve.deployment(
        name, variant, overrides, hosts=hosts, launcher=launcher, root=root, imported=imported
    )
    done = _carry_out(resolved, root, None, report)
    deployment, inventory = resolved[0].deployment, resolved[0].hosts
    url = endpoint.url(deployment, inventory)
    changed = any(step.stage.startswith("start") for step in done.plan.changes)
    model = deployment.model.served_name
    proof = tuple(r.evidence for r in done.outcome.results if r.step in PROOFS)
    return Served(deployment.name, url, model, changed, done.run.id, done.outcome, proof)


def prepare(
    name: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    until: str,
    hosts: str | None = None,
    launcher: str | None = None,
    workspace: str | None = None,
    imported: Imported | None = None,
    report: Report = silent,
) -> Prepared:
    """Carry out the stages of deployment `name` up to `until` (``checkpoint``, ``weight_cache``).

    No rank is started or stopped. Raises as `serve` does, and UsageError when the deployment has
    no such stage.
    """
    root = workspaces.find(workspace)
    resolved = resolve.deployment(
        name, variant, overrides, hosts=hosts, launcher=launcher, root=root, imported=imported
    )
    deployment, engine = resolved[0].deployment, resolved[1]
    commands = until_stage(engine.stages(deployment), until)
    done = _carry_out(resolved, root, until, report)
    changed = any(isinstance(step, Convert) for step in done.plan.changes)
    products = tuple(command.product for command in commands)
    return Prepared(deployment.name, products, changed, done.run.id, done.outcome)


@dataclass(frozen=True)
class _Done:
    plan: Plan
    run: Run
    outcome: Outcome


def _carry_out(
    resolved: tuple[Loaded, Engine, Vendor], root: Path, until: str | None, report: Report
) -> _Done:
    loaded, engine, vendor = resolved
    deployment, state = loaded.deployment, workspaces.state_folder(root)
    chosen = resolve.patch_set(loaded, root)
    with (
        deployment_lock(state, deployment.name),
        places.open_places([places.of(loaded)], root) as launchers,
    ):
        facts = probe(
            launchers,
            deployment.name,
            devices=deployment.container.devices,
            ports=[deployment.endpoint.port, deployment.endpoint.master_port],
            stages=engine.stages(deployment),
            patched=deployment.patch.worktree,
            checkpoint=deployment.model.checkpoint if engine.switch(deployment) else None,
            report=report,
        )
        facts = replace(facts, native=native.recorded(state / native.FOLDER))
        run = Run.create(state, deployment.name, _secrets(deployment))
        plan = plan_serve(
            deployment, loaded.hosts, facts, engine, vendor, run.id, sys.executable, until, chosen
        )
        _record(run, loaded, plan)
        try:
            outcome = execute(plan, launchers, run, report)
        except BaseException as error:
            run.write_json("result.json", {"status": "failed", "error": run.mask(str(error))})
            raise
    run.write_json("result.json", {"status": "succeeded", "changed": bool(plan.changes)})
    return _Done(plan, run, outcome)


def _to_dict(result: Served | Prepared) -> dict[str, Any]:
    steps = [vars(step) for step in result.outcome.results]
    return {**{f.name: getattr(result, f.name) for f in fields(result)}, "outcome": steps}


def _record(run: Run, loaded: Loaded, plan: Plan) -> None:
    run.write("config.yaml", yaml_file.dump(plain(loaded.deployment)))
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
