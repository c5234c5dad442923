"""A profile of a rank in a real container, which shares its host's processes with others."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_SPEC,
    ContainerSpec,
    Host,
    Mount,
)
from flagdeploy.errors import HostError
from flagdeploy.evals.client import Endpoint
from flagdeploy.launchers.ssh import SshLauncher
from flagdeploy.operators import as_engine
from flagdeploy.operators.attribution import evidence
from flagdeploy.operators.coverage import measure
from flagdeploy.operators.trace import read_traces
from flagdeploy.records.events import silent
from flagdeploy.workflows import profile
from flagdeploy.workflows.ops_coverage import _asked
from flagdeploy.workflows.profile import Place

pytestmark = pytest.mark.fleet

ENGINE = Path(__file__).with_name("profiled_engine.py")
CACHE = Path(__file__).parent.parent / "cases" / "triton_cache"
PORT = 8011
FOLDER = "/tmp/profiles/traces"


@pytest.fixture
def launcher(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SshLauncher]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    monkeypatch.setattr(profile, "QUIET_S", 0.2)
    node = next(iter(fleet))
    host = Host(node.address, user=node.user, port=node.port)
    opened = SshLauncher(host, fleet.known_hosts_path)
    yield opened
    opened.close()
    node.remove_containers()


def started(launcher: SshLauncher, image: Image, name: str, **changes: str) -> Place:
    """A rank that serves on the host's address, in the host's process namespace."""
    argv = ("sh", "-c", f"mkdir -p /tmp/profiles && exec python3 {ENGINE} {PORT} {FOLDER} good")
    argv = argv if name == "tiny" else ("sh", "-c", "exec python3 -m http.server 8012")
    labels = {LABEL_DEPLOYMENT: name, LABEL_RANK: "0", LABEL_RANKS: "1", LABEL_SPEC: "s"}
    labels |= {LABEL_ENDPOINT: f"http://{launcher.host}:{PORT}", LABEL_MODEL: "tiny"}
    mounts = [Mount(*mount.split(":")[:2], read_only=True) for mount in image.mounts]
    mounts += [Mount(str(path), str(path), read_only=True) for path in (ENGINE.parent, CACHE)]
    env = {"TRITON_CACHE_DIR": str(CACHE), "OF": name, "HOME": "/tmp", **changes}
    spec = ContainerSpec(
        f"flagdeploy-{name}-0", image.tag, argv, env, labels, mounts=tuple(mounts),
        pid="host", init=False, stop_timeout=1,
    )  # fmt: skip
    launcher.start(spec)
    (rank,) = launcher.running(name)
    return Place(rank, launcher, FOLDER)


def test_a_profile_comes_out_of_a_container(
    launcher: SshLauncher, python_environment: Image, tmp_path: Path
) -> None:
    place = started(launcher, python_environment, "tiny")
    endpoint = Endpoint(f"http://{launcher.host}:{PORT}", "tiny", name="tiny")
    _until_it_listens(launcher)
    questions = [({"role": "user", "content": text},) for text in ("one", "two")]
    found = profile.profile(
        [place],
        endpoint,
        lambda: _asked(endpoint, questions, 3),
        {"library": ["flag_gems"], "engine": []},
        to=tmp_path / "traces",
        timeout_s=60,
        report=silent,
    )
    assert len(found.traces) == 2
    known = evidence(found.scans)
    assert known.compiled == {"add_kernel": {"/srv/site/flag_gems/add.py"}}
    assert known.missing == {"flag_gems"}
    coverage = measure(read_traces(found.traces), known)
    assert (coverage.rows["engine"].launches, coverage.rows["vendor"].launches) == (2, 2)


def test_each_rank_finds_its_own_python(launcher: SshLauncher, python_environment: Image) -> None:
    places = [started(launcher, python_environment, name) for name in ("other", "tiny")]
    for place, name in zip(places, ("other", "tiny"), strict=True):
        program = "import os, sys; print(os.environ['OF'], sys.argv[1:])"
        deadline = time.monotonic() + 20
        said = b""
        while said.decode().strip() != f"{name} ['x']" and time.monotonic() < deadline:
            said = place.here(as_engine, program, "x", timeout=20)
        assert said.decode().strip() == f"{name} ['x']"


def test_a_program_that_fails_says_why(launcher: SshLauncher, python_environment: Image) -> None:
    place = started(launcher, python_environment, "tiny")
    with pytest.raises(HostError, match="rank 0: .* leads out of"):
        place.here(profile.trace_files, json.dumps(
            {"folder": "/tmp", "file": "../etc/passwd", "offset": 0, "length": 5}
        ), timeout=20)  # fmt: skip


def _until_it_listens(launcher: SshLauncher) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            launcher.connect(str(launcher.host), PORT, 5).close()
            return
        except (OSError, HostError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
