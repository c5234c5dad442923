"""The zoo's rows, and three of them through the real path: server, HTTP, `compare`."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from aiohttp import web

from flagdeploy.evals.client import Endpoint
from flagdeploy.server import __main__ as server
from flagdeploy.server.app import make_app
from flagdeploy.server.model import LoadedModel, LoadOptions, load
from flagdeploy.workflows.compare import compare
from flagdeploy.workflows.dequant import dequant
from zoo import table
from zoo.checkpoints import FP8
from zoo.rows import FAULTS, HARMLESS, LIMITS, ROWS
from zoo.trial import BASELINE, reason


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo") / "bf16"
    dequant(FP8, out=out)
    return out


@contextmanager
def deployed(name: str, folder: Path) -> Iterator[str]:
    """The row's deployment in a thread of this process."""
    loaded = load(LoadOptions(directory=folder))
    change = ROWS[name].change
    started, stop = threading.Event(), asyncio.Event()
    port: list[int] = []
    loop = asyncio.new_event_loop()

    async def serve(loaded: LoadedModel) -> None:
        options = server.parse(["--model", str(folder), "--max-num-seqs", "64"])
        service = server._service(options, loaded)
        runner = web.AppRunner(make_app(service))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        started.set()
        await stop.wait()
        await service.batch.drain(0)
        await runner.cleanup()

    with torch.no_grad():
        loaded = change(loaded) if change else loaded
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(loaded),))
    thread.start()
    try:
        assert started.wait(60)
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
        mock.patch.stopall()


@pytest.mark.parametrize(
    ("name", "limit", "verdict", "why"),
    [
        ("bos-doubled", 1, "FAIL", "parity: 19 of 19 prompts are tokenized differently"),
        ("int4-rtn", 1, "DIFFERENT", "teacher-forced logit noise: the KL divergence is that of a"),
        # Of identical answers 88 suffice to exclude a loss of 3 points.
        ("fp32", 30, "PASS", "the KL divergence is that of a random error of 0.00"),
    ],
)
def test_a_row_through_the_real_path(
    name: str, limit: int, verdict: str, why: str, bf16: Path
) -> None:
    with deployed(name, bf16) as url:
        result = compare(Endpoint(url), str(BASELINE), limit=limit, concurrency=64)
    assert result.verdict == verdict
    assert reason(result.to_json()).startswith(why)


def test_the_zoo_holds_what_it_must() -> None:
    assert len(FAULTS) >= 24
    assert len(HARMLESS) >= 12
    assert len(ROWS) == len({row.what for row in ROWS.values()})
    assert not {row.name for row in LIMITS} & {row.name for row in [*FAULTS, *HARMLESS]}


def test_what_is_expected_of_a_row() -> None:
    assert ROWS["int4-rtn"].as_expected("DIFFERENT")
    assert not ROWS["int4-rtn"].as_expected("INCONCLUSIVE")
    assert not ROWS["fp32"].as_expected("DIFFERENT")
    assert ROWS["int6-rtn"].as_expected("INCONCLUSIVE") is None


def test_a_table_of_two_machines(tmp_path: Path) -> None:
    lines = [
        '{"row": "int4-rtn", "machine": "GPU", "verdict": "ERROR", "reason": "x", "seconds": 1}',
        '{"row": "int4-rtn", "machine": "GPU", "verdict": "FAIL", "reason": "a|b", "seconds": 2}',
        '{"row": "vllm", "machine": "GPU", "verdict": "SKIPPED", "reason": "no", "seconds": 0}',
    ]
    (tmp_path / "gpu").write_text("\n".join(lines) + "\n")
    (tmp_path / "cpu").write_text(
        '{"row": "int4-rtn", "machine": "CPU", "verdict": "PASS", "reason": "c", "seconds": 9}\n'
        '{"row": "vllm", "machine": "CPU", "verdict": "PASS", "reason": "ok", "seconds": 8}\n'
    )
    text = table.markdown(table.read([tmp_path / "gpu", tmp_path / "cpu"]))
    assert text.startswith(
        "GPU: 1 of 1 faults caught, 0 of 0 harmless changes passed\n"
        "CPU: 0 of 1 faults caught, 1 of 1 harmless changes passed; "
        "not as expected: int4-rtn PASS\n"
    )
    assert "| FAIL (GPU), PASS (CPU) | a\\|b | GPU, CPU | 2, 9 |" in text
    assert "| PASS | ok | CPU | 8 |" in text


def test_the_table_of_the_readme_is_that_of_the_results_kept() -> None:
    files = sorted((Path(__file__).parent / "results").glob("*.jsonl"))
    printed = table.markdown(table.read(files)).replace("\n### ", "\n#### ")
    assert printed in (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_every_fault_was_caught_and_every_harmless_change_passed() -> None:
    files = sorted((Path(__file__).parent / "results").glob("*.jsonl"))
    seen = {r["row"]: r["verdict"] for r in table.read(files) if r["verdict"] != "SKIPPED"}
    judged = {row.name: row.as_expected(seen[row.name]) for row in [*FAULTS, *HARMLESS]}
    assert [name for name, as_expected in judged.items() if not as_expected] == []
