"""What packages declare and Triton compiled, found without importing anything."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flagdeploy.operators import as_engine, scan
from flagdeploy.operators.attribution import evidence

CACHE = Path(__file__).parent.parent / "cases" / "triton_cache"
SOURCE = '''
    """Every way in which kernels are declared; importing it would fail."""
    import numba, triton, missing_package
    import triton as tt
    import triton.language as tl
    from triton import jit
    from triton.runtime import jit as compiled
    from triton.experimental import gluon
    from elsewhere import libentry, pointwise_dynamic, cute

    @triton.jit
    def plain(): ...

    @libentry()
    @triton.autotune(configs=[], key=["n"])
    @triton.heuristics({})
    @triton.jit(do_not_specialize=["n"])
    def wrapped(): ...

    @tt.jit
    def by_another_name(): ...

    @jit
    def imported(): ...

    @compiled
    def imported_as(): ...

    @gluon.jit
    def of_gluon(): ...

    @pointwise_dynamic(is_tensor=[True], promotion_methods=[(0, "DEFAULT")])
    @triton.jit
    def scalar(x): ...

    def maker():
        @triton.jit
        def inner(): ...
        return inner

    def called(): ...
    kernel = triton.jit(called)

    @numba.jit
    def of_numba(): ...

    @cute.jit
    def of_cute(): ...

    @triton.testing.perf_report([])
    def benchmark(): ...

    class Op:
        def jit(self): ...
'''
DECLARED = ["by_another_name", "called", "imported", "imported_as", "inner", "of_gluon"]
DECLARED += ["plain", "scalar", "wrapped"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "site" / "flag_gems"
    (folder / "ops").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('needs a device')")
    (folder / "ops" / "all.py").write_text(textwrap.dedent(SOURCE))
    (folder / "ops" / "template.py").write_text("@triton.jit\ndef {{name}}(): ...")
    (folder / "notes.txt").write_text("@triton.jit\ndef text(): ...")
    return folder


def test_every_declaration_is_found(package: Path) -> None:
    found = scan.declared(str(package))
    assert found["kernels"] == DECLARED
    assert found["generating"] == ["scalar"]
    assert (found["package"], found["folder"]) == ("flag_gems", str(package))


def test_a_package_is_found_and_not_imported(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(package.parent))
    assert scan.declared("flag_gems")["kernels"] == DECLARED
    assert "flag_gems" not in sys.modules
    assert scan.declared("no_such_package_1")["folder"] == ""


def test_what_triton_wrote_names_kernel_and_file() -> None:
    names, late = scan.compiled_kernels([CACHE, CACHE / "missing"], None)
    assert names == {"add_kernel": ["/srv/site/flag_gems/add.py"]}
    assert late == []


@pytest.mark.parametrize("kept", [".ttir", ".source", ".ttgir", ""])
def test_any_of_its_files_names_the_source(kept: str, tmp_path: Path) -> None:
    shutil.copytree(CACHE, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("add_kernel.*"):
        if path.suffix not in (kept, ".json"):
            path.unlink()
    names, _ = scan.compiled_kernels([tmp_path], None)
    assert names == {"add_kernel": ["/srv/site/flag_gems/add.py" if kept else ""]}


def test_what_was_compiled_since(tmp_path: Path) -> None:
    shutil.copytree(CACHE, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob("add_kernel.json")
    os.utime(path, (1000, 1000))
    assert scan.compiled_kernels([tmp_path], 1000.0)[1] == ["add_kernel"]
    assert scan.compiled_kernels([tmp_path], 1000.5)[1] == []


def test_other_json_in_a_cache_is_no_kernel(tmp_path: Path) -> None:
    for name, content in {
        "a": "{",
        "b": "[]",
        "c": '{"name": "x"}',
        "d": '{"num_warps": 4}',
    }.items():
        (tmp_path / f"{name}.json").write_text(content)
    assert scan.compiled_kernels([tmp_path], None) == ({}, [])


def test_the_default_folders_are_those_of_the_environment(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = tmp_path / "gems" / "code_cache"
    generated.mkdir(parents=True)
    (generated / "made.py").write_text("@libentry()\n@triton.jit\ndef made_kernel_rank_1(): ...")
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "gems"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(CACHE))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))
    answer = scan.scan({"library": [str(package)], "engine": ["no_such_package_1"]})
    assert answer["triton"]["folders"] == [str(CACHE)]
    assert answer["missing"] == ["no_such_package_1"]
    known = evidence([answer])
    kernels = ["made_kernel_rank_1", "scalar_kernel_rank_7", "add_kernel", "of_numba"]
    assert [known.source(name) for name in kernels] == ["library", "library", "library", "vendor"]
    assert known.gaps() == ["no_such_package_1 is not installed beside the engine"]


def test_the_text_runs_by_itself(package: Path) -> None:
    """As in a container: isolated, nothing of this project on the path."""
    request = {"library": [str(package)], "caches": [str(CACHE)], "code_caches": []}
    done = subprocess.run(
        [sys.executable, "-I", "-c", Path(scan.__file__).read_text(), json.dumps(request)],
        capture_output=True,
        check=True,
        cwd="/",
    )
    assert json.loads(done.stdout)["library"][0]["kernels"] == DECLARED


# --- the engine's own Python --------------------------------------------------------------------

TELLS = "import os, sys; print(sys.executable, os.environ.get('OF_THE_ENGINE'), sys.argv[1:])"


def beside(folder: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", Path(as_engine.__file__).read_text(), TELLS, "an argument"],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, as_engine.OWN_FOLDER: folder},
    )
    return done.stdout.strip()


def test_the_program_goes_on_in_the_engines_environment(tmp_path: Path) -> None:
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python3").symlink_to(Path(sys.executable).resolve())
    waits = tmp_path / "engine.py"
    waits.write_text("print(flush=True); input()")
    environment = {
        as_engine.OWN_FOLDER: str(tmp_path),
        "OF_THE_ENGINE": "yes",
        "PATH": str(bin_folder),
    }
    with subprocess.Popen(
        ["python3", str(waits)],
        executable=str(bin_folder / "python3"),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as engine:
        assert engine.stdout is not None
        assert engine.stdin is not None
        engine.stdout.readline()
        assert beside(str(tmp_path)) == f"{bin_folder / 'python3'} yes ['an argument']"
        # A rank that has no Python: the one that asks goes on.
        assert beside(str(tmp_path / "other")) == f"{sys.executable} None ['an argument']"
        engine.stdin.write(b"\n")


def test_an_engine_that_renamed_itself_is_known_by_what_it_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = tmp_path / "proc" / "17"
    process.mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text("")
    (process / "cmdline").write_bytes(b"VLLM::EngineCore\0")
    (process / "environ").write_bytes(b"A=1\0B=2=3\0")
    (process / "exe").symlink_to("/usr/bin/python3.12")
    library = tmp_path / "venv/lib/python3.12/site-packages/torch/lib/libtorch.so"
    (process / "maps").write_text(f"7f00-7f01 r-xp 0 00:00 0  {library}\n")
    assert as_engine.interpreter_of(process) == str(python)
    assert as_engine.environment_of(process) == {"A": "1", "B": "2=3"}
    (process / "maps").write_text("")
    assert as_engine.interpreter_of(process) == "/usr/bin/python3.12"


def test_processes_of_other_containers_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(as_engine.OWN_FOLDER, raising=False)
    monkeypatch.setattr(as_engine, "PROC", tmp_path)
    rows = {
        "self": ("mnt:[1]", "/usr/bin/python3", ["python3", "-c"], 9),
        "20": ("mnt:[1]", "/usr/bin/python3.12", ["python3", "/usr/bin/vllm"], 500),
        "30": ("mnt:[1]", "/usr/bin/python3.12", ["VLLM::EngineCore"], 400),
        "40": ("mnt:[2]", "/usr/bin/python3.12", ["python3", "other"], 100),
        "50": ("mnt:[1]", "/usr/bin/bash", ["bash"], 100),
        "60": ("mnt:[1]", "/usr/bin/python3.12", ["python3", "-c", "spawned"], 100),
    }
    for pid, (namespace, executable, called, ticks) in rows.items():
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns" / "mnt").symlink_to(namespace)
        (tmp_path / pid / "exe").symlink_to(executable)
        (tmp_path / pid / "cmdline").write_bytes("\0".join(called).encode() + b"\0")
        fields = " ".join(["S", *["0"] * 18, str(ticks), "0"])
        (tmp_path / pid / "stat").write_text(f"{pid} (a) name) {fields}")
    assert [process.name for process in as_engine.engine_processes()] == ["30", "20"]
