"""Read from every host what a plan needs to know; nothing is changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flagdeploy.checkpoint import strict_json
from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.config.facts import Facts, HostFacts, Product, Worktree
from flagdeploy.config.launch import StageCommand
from flagdeploy.errors import HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.checkpoint_on_host import SMALL, fingerprint
from flagdeploy.workflows.fanout import each
from flagdeploy.workflows.patch import look_at


def probe(
    launchers: Mapping[str, Launcher],
    name: str,
    *,
    devices: Sequence[str] = (),
    ports: Iterable[int] = (),
    stages: Sequence[StageCommand] = (),
    patched: str = "",
    checkpoint: str | None = None,
    report: Report = silent,
) -> Facts:
    """Facts of all hosts, read at once: images, ranks of deployment `name`, device nodes, ports,
    what lies where `stages` put their products and where the source is `patched`, and which
    checkpoint is in folder `checkpoint`.

    Raises HostError, or HostsFailed with the error of every host that failed.
    """
    report(Event("probe", f"looking at {len(launchers)} host(s)"))
    wanted = tuple(ports)

    def look(launcher: Launcher) -> HostFacts:
        products = {stage.product: _product(launcher, stage) for stage in stages}
        worktree = look_at(launcher, patched) if patched else Worktree()
        facts = launcher.probe(name, devices, wanted)
        held = fingerprint(launcher, checkpoint) if checkpoint else None
        digest = held.digest if held else ""
        return replace(facts, products=products, patched=worktree, checkpoint=digest)

    return Facts(each(launchers, look))


def _product(launcher: Launcher, stage: StageCommand) -> Product:
    try:
        names = launcher.listdir(stage.product)
    except FileNotFoundError:
        return Product(empty=True)
    except OSError as error:
        raise HostError(str(launcher.host), f"{stage.product}: {error.strerror or error}") from None
    if RECORD not in names:
        return Product(empty=not names)
    with launcher.open(f"{stage.product}/{RECORD}") as file:
        record = file.read(SMALL)
    found = fingerprint(launcher, stage.source)
    try:
        return Product(False, dict(strict_json.parse(record)), found.digest if found else "")
    except (ValueError, TypeError):
        return Product(empty=False)
