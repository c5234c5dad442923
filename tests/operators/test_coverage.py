"""From a trace to three measures: what launched a kernel, whose it is, what is counted."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.operators.attribution import SOURCES, Declared, Evidence
from flagdeploy.operators.coverage import Coverage, measure
from flagdeploy.operators.coverage_text import text
from flagdeploy.operators.trace import Pair, Tally, Trace, read_trace, read_traces
from operators.traces import Recording, write

GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>(Params)"
KNOWN = Evidence(
    library=Declared(
        ("flag_gems",),
        ("/site/flag_gems",),
        ("flag_gems",),
        frozenset({"mm_kernel", "mul_func", "fused_moe_kernel"}),
        frozenset({"mul_func"}),
    ),
    engine=Declared(
        ("vllm",), ("/site/vllm",), ("vllm",), frozenset({"fused_moe_kernel", "_topk_kernel"})
    ),
)


def launched(trace: Trace) -> dict[tuple[str, str], int]:
    return {(pair.kernel, pair.operator): tally.launches for pair, tally in trace.pairs.items()}


@pytest.fixture
def recording() -> Recording:
    return Recording()


# --- which operator -----------------------------------------------------------------------------


def test_the_innermost_operator_around_the_call(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::linear"):
        with recording.operator("aten::t"):
            pass
        with recording.operator("aten::addmm"):
            recording.launch(GEMM, 10)
        recording.launch("after", 1)
    recording.launch("outside", 1)
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {
        (GEMM, "aten::addmm"): 1,
        ("after", "aten::linear"): 1,
        ("outside", ""): 1,
    }


def test_an_override_in_python_keeps_its_operator(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::mul"):
        with recording.operator("aten::empty_strided"):
            pass
        recording.launch("k", 2, call="cuLaunchKernelEx", category="cuda_driver")
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {("k", "aten::mul"): 1}


def test_threads_are_kept_apart(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::mm", tid=1), recording.operator("aten::add", tid=2):
        recording.launch("of 1", 1, tid=1, external=False)
        recording.launch("of 2", 1, tid=2, external=False)
        recording.launch("of 3", 1, tid=3, external=False)
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {
        ("of 1", "aten::mm"): 1,
        ("of 2", "aten::add"): 1,
        ("of 3", ""): 1,
    }


def test_the_external_id_where_no_call_was_recorded(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::mm"):
        recording.launch("known", 1, called=False)
        recording.launch("unknown", 1, called=False, external=False)
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {
        ("known", "aten::mm"): 1,
        ("unknown", ""): 1,
    }


def test_the_call_comes_before_the_external_id(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::mm"):
        pass
    with recording.operator("aten::add"):
        recording.launch("k", 1)
    recording.events[-1]["args"]["External id"] = recording.events[0]["args"]["External id"]
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {("k", "aten::add"): 1}


def test_frames_of_torch_compile_are_no_operators(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("Torch-Compiled Region: 0/0"):
        recording.launch("triton_poi_fused_add_0", 3, external=False)
    assert launched(read_trace(recording.write(tmp_path / "a.json"))) == {
        ("triton_poi_fused_add_0", ""): 1
    }


def test_a_replayed_graph_hides_its_operators(recording: Recording, tmp_path: Path) -> None:
    with recording.operator("aten::zero_"):
        recording.launch("mm_kernel", 2, call="cudaGraphLaunch", kernels=3)
    trace = read_trace(recording.write(tmp_path / "a.json"))
    assert launched(trace) == {("mm_kernel", ""): 3}
    assert trace.from_graphs == 3
    assert "3 launches came from replayed graphs" in text(measure(trace, KNOWN), 3)


def test_other_events_are_no_kernels(recording: Recording, tmp_path: Path) -> None:
    recording.launch("k", 2)
    recording.on_device("gpu_memcpy", "Memcpy HtoD", 7, {"correlation": 99})
    recording.on_device("gpu_memset", "Memset", 0.5, {"correlation": 98})
    recording.on_device("gpu_user_annotation", "step", 500, {"External id": 1})
    with recording.operator("step", category="user_annotation"):
        pass
    recording.events.append({"ph": "M", "cat": "kernel", "name": "meta", "dur": 1000})
    coverage = measure(read_trace(recording.write(tmp_path / "a.json")), KNOWN)
    assert (coverage.total.launches, coverage.total.time_us) == (1, 2)
    assert "not counted: 2 copies and fills of memory, 0.007 ms" in text(coverage, 0)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"nan"'])
def test_what_is_no_time_is_none(number: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    kernel = f'{{"ph": "X", "cat": "kernel", "name": "k", "ts": {number}, "dur": {number}}}'
    path.write_text(f'{{"deviceProperties": 5, "traceEvents": [{kernel}]}}')
    assert read_trace(path).pairs == {Pair("k", ""): Tally(1, 0)}


def test_numbers_as_text_and_missing_fields(tmp_path: Path) -> None:
    events = [
        {"ph": "X", "cat": "Kernel", "name": "k", "dur": "12.5", "args": None},
        {"ph": "X", "cat": "kernel", "dur": None},
        {"ph": "X", "cat": "cpu_op"},
        {},
    ]
    trace = read_trace(write(tmp_path / "a.json", {"traceEvents": events}))
    assert {p.kernel: (t.launches, t.time_ns) for p, t in trace.pairs.items()} == {
        "k": (1, 12500),
        "": (1, 0),
    }


# --- whose kernel -------------------------------------------------------------------------------

COMPILED = {
    "mm_kernel": {"/site/flag_gems/ops/mm.py"},
    "fused_moe_kernel": {"/site/vllm/fused_moe.py"},
    "both": {"/site/vllm/both.py", "/elsewhere/flag_gems/both.py"},
    "third": {"/site/flash_attn/third.py"},
    "in_its_place": {"/opt/flag_gems/venv/vllm/fused_moe.py"},
    "elsewhere": {"/opt/vllm/venv/flag_gems/ops/mm.py"},
    "no_lines": {""},
    "mul_func": {""},
    "_topk_kernel_0": {"/tmp/torchinductor_root/ab/cab.py"},
    "mm_kernel_3": {"/tmp/torchinductor_root/ab/cad.py"},
    "triton_mm": {"/tmp/torchinductor_root/ab/cac.py"},
}
CACHE = Evidence(
    KNOWN.library,
    KNOWN.engine,
    {name: frozenset(files) for name, files in COMPILED.items()},
    compiler_folders=("/tmp/torchinductor_root",),
)

BY_NAME = {
    "mm_kernel": "library",
    "mul_func_kernel_rank_3": "library",
    "mul_func_kernel_rank_x": "vendor",
    "add_func_kernel_rank_3": "vendor",
    "_topk_kernel": "engine",
    "fused_moe_kernel": "library",
    "triton_poi_fused_add_mul_0": "compiler",
    "triton_red_fused__to_copy_12": "compiler",
    "triton_tem_fused_mm_7": "compiler",
    "triton_": "compiler",
    "triton_like_kernel": "vendor",
    "void at::native::triton_poi_0<float>()": "vendor",
    GEMM: "vendor",
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL": "vendor",
}
BY_FILE = {
    "mm_kernel": "library",
    "fused_moe_kernel": "engine",  # both declare it, the file decides
    "both": "library",
    "third": "engine",
    "in_its_place": "engine",  # an environment may be called after anything
    "elsewhere": "library",
    "no_lines": "engine",
    "mul_func": "library",
    "_topk_kernel_0": "engine",  # copied by torch.compile
    "mm_kernel_3": "library",
    "triton_mm": "compiler",
    "triton_per_fused_sum_1": "compiler",
    "mul_func_kernel_rank_1": "library",  # of a cache that was not read
    GEMM: "vendor",
}


@pytest.mark.parametrize("kernel, source", BY_NAME.items())
def test_declarations_decide(kernel: str, source: str) -> None:
    assert KNOWN.source(kernel) == source


@pytest.mark.parametrize("kernel, source", BY_FILE.items())
def test_the_file_that_was_compiled_decides_first(kernel: str, source: str) -> None:
    assert CACHE.source(kernel) == source


def test_what_two_packages_declare_is_said() -> None:
    assert [name for name in BY_NAME if KNOWN.ambiguous(name)] == ["fused_moe_kernel"]
    assert [name for name in BY_FILE if CACHE.ambiguous(name)] == ["both"]


def test_what_was_not_looked_at_is_said() -> None:
    assert [gap.split(":")[0] for gap in Evidence().gaps()] == [
        "the library's package was not read",
        "Triton's cache was not read",
        "the engine's package was not read",
    ]
    missing = Evidence(compiled={}, missing=frozenset({"flag_gems"}))
    assert missing.gaps() == ["flag_gems is not installed beside the engine"]
    assert CACHE.gaps() == []
    assert not Evidence().looked_at("library") and not Evidence().looked_at("engine")
    assert missing.looked_at("library") and missing.looked_at("engine")
    assert all(CACHE.looked_at(source) and KNOWN.looked_at(source) for source in SOURCES)


# --- what is counted ----------------------------------------------------------------------------


def a_step(recording: Recording) -> None:
    with recording.operator("aten::mm"):
        recording.launch("mm_kernel", 60)
    with recording.operator("aten::mul"):
        recording.launch("mul_func_kernel_rank_2", 5)
        recording.launch("void at::native::mul<float>()", 1)
    with recording.operator("vllm::topk"):
        recording.launch("_topk_kernel", 4)
    recording.launch("triton_poi_fused_add_0", 10)
    recording.launch("triton_poi_fused_add_0", 10)
    with recording.operator("aten::linear"):
        recording.launch(GEMM, 110)


def test_three_measures_by_source(recording: Recording, tmp_path: Path) -> None:
    a_step(recording)
    coverage = measure(read_trace(recording.write(tmp_path / "a.json.gz")), KNOWN)
    rows = {name: (r.operators, r.launches, r.time_us) for name, r in coverage.rows.items()}
    assert rows == {
        "library": (2, 2, 65),
        "engine": (1, 1, 4),
        "compiler": (1, 2, 20),
        "vendor": (1, 2, 111),
    }
    assert coverage.triton.time_us == 89
    assert coverage.shares(coverage.triton) == {
        "operators": 4 / 5,
        "launches": 5 / 7,
        "time_us": 89 / 200,
    }
    assert [one.name for one in coverage.mixed] == ["aten::mul"]
    assert coverage.mixed[0].parts == {"library": 5, "vendor": 1}
    assert [one.name for one in coverage.kernels][:2] == [GEMM, "mm_kernel"]
    assert coverage.trace.devices == {"NVIDIA H200"}


def test_the_table(recording: Recording, tmp_path: Path) -> None:
    a_step(recording)
    trace = read_traces([recording.write(tmp_path / "a.json")] * 2)
    about = {"deployment": "r1", "engine": "vLLM 0.33.0", "command": "flagdeploy ops coverage r1"}
    shown = text(measure(trace, KNOWN, about), 1).splitlines()
    assert shown[0] == "r1, vLLM 0.33.0, NVIDIA H200, kernels in 2 of 2 traces"
    assert shown[2:9] == [
        "source                   operators            launches           kernel time",
        "library                  2   40.0%           4   28.6%      0.130 ms   32.5%",
        "engine's Triton          1   20.0%           2   14.3%      0.008 ms    2.0%",
        "compiler                 1   20.0%           4   28.6%      0.040 ms   10.0%",
        "Triton together          4   80.0%          10   71.4%      0.178 ms   44.5%",
        "vendor                   1   20.0%           4   28.6%      0.222 ms   55.5%",
        "all                      5  100.0%          14  100.0%      0.400 ms  100.0%",
    ]
    assert "library, 1 of 2 kernels:\n       0.120 ms       2  mm_kernel  (aten::mm)" in "\n".join(
        shown
    )
    assert shown[-1] == "made by: flagdeploy ops coverage r1"


def test_a_switch_without_effect(recording: Recording, tmp_path: Path) -> None:
    recording.launch(GEMM, 1)
    trace = read_trace(recording.write(tmp_path / "a.json"))
    asked = measure(trace, KNOWN, {"library": "flaggems"})
    assert asked.inactive
    assert "asks for flaggems, and none of its kernels ran" in text(asked, 0)
    assert not measure(trace, KNOWN, {"library": "none"}).inactive
    assert not measure(Trace(), KNOWN, {"library": "flaggems"}).inactive


def test_kernels_that_were_compiled_meanwhile_are_said(
    recording: Recording, tmp_path: Path
) -> None:
    recording.launch("mm_kernel", 1)
    evidence = Evidence(KNOWN.library, late=frozenset({"mm_kernel", "another"}))
    coverage = measure(read_trace(recording.write(tmp_path / "a.json")), evidence)
    assert coverage.late == ("mm_kernel",)
    assert "compiled while the profile ran, so tuning may be in the numbers: mm_kernel" in text(
        coverage, 0
    )


def test_collectives_wait_while_they_run(recording: Recording, tmp_path: Path) -> None:
    recording.launch("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 2500)
    recording.launch(GEMM, 1)
    coverage = measure(read_trace(recording.write(tmp_path / "a.json")), KNOWN)
    assert "2.500 ms of the vendor's time are NCCL's" in text(coverage, 0)


# --- properties ---------------------------------------------------------------------------------

NAMES = [*BY_NAME, "", "aten::mm"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["aten::mm", "aten::mul", "vllm::topk", None]),
        st.integers(0, 10**6).map(lambda ns: ns / 1000),
        st.booleans(),
        st.integers(1, 3),
    ),
    max_size=30,
)


def recorded(steps: list[tuple[str, str | None, float, bool, int]], first_id: int = 1) -> Recording:
    recording = Recording(pid=first_id, first_id=first_id)
    for kernel, operator, us, called, tid in steps:
        if operator is None:
            recording.launch(kernel, us, called=called, tid=tid)
        else:
            with recording.operator(operator, tid=tid):
                recording.launch(kernel, us, called=called, tid=tid)
    return recording


def numbers(coverage: Coverage) -> dict[str, object]:
    found = coverage.to_dict()
    return {key: found[key] for key in ("sources", "kernels", "operators", "mixed")}


@given(steps=STEPS)
def test_sources_add_up_to_all(steps, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("a") / "a.json"
    coverage = measure(read_trace(recorded(steps).write(path)), KNOWN)
    assert coverage.total.launches == len(steps)
    assert coverage.total.time_us == pytest.approx(sum(step[2] for step in steps))
    assert coverage.total.operators == len(coverage.operators)
    assert len(coverage.operators) == len({operator or kernel for kernel, operator, *_ in steps})
    for measured in ("operators", "launches", "time_us"):
        shares = [coverage.shares(coverage.rows[source])[measured] for source in SOURCES]
        if None in shares:
            assert not getattr(coverage.total, measured)
        else:
            assert sum(shares) == pytest.approx(1)
            assert all(0 <= share <= 1 for share in shares)


@given(steps=STEPS, seed=st.integers())
def test_the_order_of_events_says_nothing(
    steps, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("a") / "a.json"
    recording = recorded(steps)
    before = measure(read_trace(recording.write(path)), KNOWN)
    random.Random(seed).shuffle(recording.events)
    assert numbers(measure(read_trace(recording.write(path)), KNOWN)) == numbers(before)


@given(first=STEPS, second=STEPS)
def test_two_files_are_as_one(first, second, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("a")
    one, two = recorded(first), recorded(second, first_id=10_000)
    apart = [one.write(folder / "1.json"), two.write(folder / "2.json.gz")]
    both = Recording(events=one.events + two.events).write(folder / "both.json")
    assert numbers(measure(read_traces(apart), KNOWN)) == numbers(measure(read_trace(both), KNOWN))


def test_the_same_ids_in_two_ranks_are_not_mixed_up(tmp_path: Path) -> None:
    one, two = Recording(), Recording()
    with one.operator("aten::mm"):
        one.launch("k", 1)
    with two.operator("aten::add"):
        two.launch("k", 1)
    trace = read_traces([one.write(tmp_path / "1.json"), two.write(tmp_path / "2.json")])
    assert set(trace.pairs) == {Pair("k", "aten::mm"), Pair("k", "aten::add")}
    assert (trace.files, trace.files_with_kernels) == (2, 2)
