"""Carry out a stage: look into its container, run the converter to its end, check the product.

Until everything is in order the product lies in ``PRODUCT.flagdeploy-unfinished``; a run that was
cut off leaves it there, and the next one clears it.
"""

import json
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from flagdeploy import __version__
from flagdeploy.checkpoint.corrections import correct
from flagdeploy.checkpoint.ownership import RECORD, SCHEMA
from flagdeploy.checkpoint.verify import verify
from flagdeploy.config.launch import LABEL_DEPLOYMENT, ContainerSpec, File, Running
from flagdeploy.config.secret import Secret
from flagdeploy.errors import CheckpointError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import Convert
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.run import Run
from flagdeploy.records.sizes import readable
from flagdeploy.workflows.checkpoint_on_host import Fingerprint, fingerprint, likeness_of
from flagdeploy.workflows.group import SHOWN_LINES, Evidence, diagnosis_of, log_of

# Clears what a run left that was cut off, and says what the container sees: its user, the room on
# the disk, which paths can be read, and the values of variables.
PROBE = """\
out=$1; shift
echo "user $(id -u)"
find "$out" -mindepth 1 -delete && : > "$out/.probe" && rm "$out/.probe" && echo "writable $out"
echo "disk $(df -Pk "$out" | tail -n 1)"
for word do
    case $word in
    /*) if [ -r "$word" ]; then echo "readable $word"; fi ;;
    *) echo "env $word=$(printenv "$word")" ;;
    esac
done
"""
PROBED = ("user ", "writable ", "disk ", "readable ", "env ")
PATIENCE = 3
# Renaming is at once; what the converter left in the page cache is written out before.
SYNC_TIMEOUT_S = 3600

Start = Callable[[ContainerSpec], str]


def run_stage(step: Convert, launcher: Launcher, start: Start, run: Run, report: Report) -> None:
    """Make the product of `step` on the host of `launcher`; `start` starts a container.

    Raises HostError when the container cannot work there (folder, user, room, variables) or when
    the converter fails, stalls or is removed; CheckpointError when it ends well and what it made
    is not whole. The converter's log is kept in `run` either way.
    """
    source = fingerprint(launcher, step.command.source)
    if source is None:
        raise CheckpointError(
            f"{step.host}: {step.command.source}: no such folder",
            "flagdeploy pull fetches a checkpoint, on every host or to a file system they share",
        )
    _make_folder(step, launcher)
    _look_inside(step, launcher, start, source, report)
    id = start(step.spec)
    try:
        with _log_kept(step, launcher, id, run):
            ended = _Watch(step, launcher, id, report).until_ended()
            if ended.exit_code != 0:
                failure = _failure(step, Evidence(ended, log_of(launcher, ended)), run)
                # Other hosts may go on for hours before the error is raised.
                report(Event(step.stage, str(failure).partition("\n")[0]))
                raise failure
            corrected = _check(step, launcher, run)
        for name in corrected:
            report(Event(step.stage, f"corrected {name}", step.host))
        launcher.put(id, _inside(step, corrected))
        launcher.put(id, _inside(step, {RECORD: _record(step, source)}))
    finally:
        launcher.stop(id)
    _name(step, launcher)


def _make_folder(step: Convert, launcher: Launcher) -> None:
    done = launcher.run(["mkdir", "-p", step.unfinished])
    if done.exit_code:
        why = done.stderr.decode(errors="replace").strip()
        raise HostError(step.host, why, f"the SSH user has to be allowed to make {step.unfinished}")


def _look_inside(
    step: Convert, launcher: Launcher, start: Start, source: Fingerprint, report: Report
) -> None:
    """Run the probe in the converter's own container: nothing else sees what that will see."""
    command, spec = step.command, step.spec
    paths = [command.source, *command.inputs]
    variables = {
        name: value
        for name, value in spec.env.items()
        if not isinstance(value, Secret) and "\n" not in value
    }
    argv = ("sh", "-c", PROBE, "sh", command.product, *paths, *variables)
    id = start(replace(spec, name=f"{spec.name}-probe", argv=argv, files=()))
    try:
        ended = _Watch(step, launcher, id, silent).until_ended()
        said = log_of(launcher, ended)
    finally:
        launcher.stop(id)
    lines = set(said.splitlines())
    user = next((line.split()[1] for line in lines if line.startswith("user ")), "?")
    who = f"user {user} of the image {spec.image}"
    if f"writable {command.product}" not in lines:
        complaints = [line for line in said.splitlines() if not line.startswith(PROBED)]
        raise HostError(
            step.host,
            f"{who} cannot write {step.unfinished}: {'; '.join(complaints)}",
            f"chown {user} {step.unfinished} on the host, or set container.user",
        )
    for path in paths:
        if f"readable {path}" not in lines:
            raise HostError(step.host, f"{who} cannot read {path}", "check its owner and mode")
    for name, value in variables.items():
        if f"env {name}={value}" not in lines:
            what = f"{name}={value} does not reach the converter: the image's entrypoint changes it"
            raise HostError(step.host, what, "container.entrypoint=[]")
    _require_room(step, source, said, report)


def _require_room(step: Convert, source: Fingerprint, said: str, report: Report) -> None:
    # POSIX df: file system, blocks of 1024 bytes, used, available.
    row = next(line for line in said.splitlines() if line.startswith("disk ")).split()
    free, needed = int(row[4]) * 1024, int(step.command.disk * source.nbytes)
    sizes = f"needs up to {readable(needed)}, the disk has {readable(free)} free"
    if needed > free:
        raise HostError(
            step.host,
            f"{step.command.product}: {sizes}",
            "free some space on the host, or choose a folder on another disk",
        )
    report(Event(step.stage, f"{step.command.product}: {sizes}", step.host))


class _Watch:
    """Looks at a container of a stage until it ends; knows what it has seen and told before."""

    def __init__(self, step: Convert, launcher: Launcher, id: str, report: Report) -> None:
        self._step = step
        self._launcher = launcher
        self._id = id
        self._report = report
        self._told = ""
        self._seen: set[Hashable] = set()
        self._moved_at = time.monotonic()

    def until_ended(self) -> Running:
        """The container at its end; meanwhile its last log lines are told.

        Raises HostError when it is removed, shows no sign of progress for too long, or the host
        does not answer for `PATIENCE` looks in a row.
        """
        blind = 0
        while True:
            try:
                found = self._look()
                blind = 0
            except HostError as error:
                blind += 1
                if blind >= PATIENCE:
                    raise
                self._tell(f"{error}; looking again")
            else:
                if found is None:
                    what = f"{self._step.spec.name} is gone: somebody removed it"
                    raise HostError(self._step.host, what)
                if found.state == "exited":
                    return found
                self._require_progress()
            time.sleep(self._step.interval)

    def _look(self) -> Running | None:
        deployment = self._step.spec.labels[LABEL_DEPLOYMENT]
        entries = self._launcher.running(deployment)
        found = next((entry for entry in entries if entry.id == self._id), None)
        if found:
            self._tell(_last_line(self._launcher, found))
        if found and found.state != "exited":
            signs = set(enumerate(self._launcher.progress(self._id)))
            if not signs <= self._seen:
                self._moved_at = time.monotonic()
            self._seen |= signs
        return found

    def _tell(self, line: str) -> None:
        if line and line != self._told:
            self._report(Event(self._step.stage, line, self._step.host))
        self._told = line

    def _require_progress(self) -> None:
        timeout = self._step.stall_timeout
        if time.monotonic() - self._moved_at > timeout:
            raise HostError(
                self._step.host,
                f"{self._step.command.converter} shows no sign of progress for {timeout} s "
                "(log, memory, disk)",
                "readiness.stall_timeout allows more",
            )


def _last_line(launcher: Launcher, running: Running) -> str:
    # A progress bar rewrites its line.
    lines = log_of(launcher, running, 1).replace("\r", "\n").strip().splitlines()
    return lines[-1] if lines else ""


def _failure(step: Convert, evidence: Evidence, run: Run) -> HostError:
    found = diagnosis_of(evidence)
    converter, code = step.command.converter, evidence.rank.exit_code
    lines = [f"the {step.stage} stage failed ({converter}, exit code {code}): {found.cause}"]
    if found.line:
        lines.append(f"  {found.line}")
    tail = [line for line in evidence.log.splitlines() if line.strip()][-SHOWN_LINES:]
    lines += [f"last lines of {converter}:", *(f"  | {line}" for line in tail)]
    lines.append(f"all of them are in {run.folder / _log_file(evidence.rank)}")
    lines.append(f"what it wrote is in {step.unfinished}, which the next run clears")
    return HostError(step.host, run.mask("\n".join(lines)), found.remedy or None)


def _log_file(running: Running) -> str:
    return f"logs/{running.stage}-{running.rank}.log"


@contextmanager
def _log_kept(step: Convert, launcher: Launcher, id: str, run: Run) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(HostError):
            for entry in launcher.running(step.spec.labels[LABEL_DEPLOYMENT]):
                if entry.id == id:
                    run.write(_log_file(entry), log_of(launcher, entry))


def _check(step: Convert, launcher: Launcher, run: Run) -> dict[str, str]:
    """Is the product whole? The texts of its files that had to be corrected, by name."""
    command = step.command
    hint = f"what the converter said is in {run.folder / 'logs'}"
    for name in command.expects:
        try:
            launcher.open(f"{step.unfinished}/{name}").close()
        except OSError:
            what = f"{step.host}: {command.converter} ended well, but made no {name}"
            raise CheckpointError(what, hint) from None
    if command.stage != "checkpoint":
        return {}
    try:
        with likeness_of(launcher, step.unfinished) as likeness:
            corrected = correct(likeness, command.corrections)
            verify(likeness).require()
            return {name: (likeness / name).read_text() for name in corrected}
    except CheckpointError as error:
        what = f"{command.converter} ended well, but what it made is not whole:\n{error}"
        raise CheckpointError(what, hint) from None


def _inside(step: Convert, texts: dict[str, str]) -> list[File]:
    folder = Path(step.command.product)
    return [File(str(folder / name), text) for name, text in texts.items()]


def _record(step: Convert, source: Fingerprint) -> str:
    record = {
        "schema": SCHEMA,
        "tool": f"flagdeploy {__version__}",
        "identity": step.identity,
        "source": source.digest,
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _name(step: Convert, launcher: Launcher) -> None:
    """Give the finished folder its name, durably: no part of it may be in memory only."""
    made, product = step.unfinished, step.command.product
    for argv in (["sync", "-f", made], ["mv", "-T", made, product]):
        done = launcher.run(argv, SYNC_TIMEOUT_S)
        if done.exit_code:
            raise HostError(step.host, done.stderr.decode(errors="replace").strip())
