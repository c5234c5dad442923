from dataclasses import replace

import pytest

from engines.conftest import ONE, R1, TWO, of
from flagdeploy.config.schema import Limits, Parallel, Profiler
from flagdeploy.server.__main__ import parse

TINY = of(
    R1,
    launcher="local",
    parallel=Parallel(),
    model=replace(R1.model, precision="bf16", checkpoint="/models/tiny", served_name="tiny"),
)


def test_every_argument_is_one_that_the_server_takes(pytorch):
    deployment = replace(
        TINY,
        weights="random",
        model=replace(TINY.model, dtype="bfloat16", trust_remote_code=True),
        limits=Limits(context_length=512, max_num_seqs=16),
        reasoning_parser="deepseek_r1",
        torch_device="cuda:1",
    )
    assert pytorch.problems(deployment, ONE) == []
    (command,) = pytorch.commands(deployment, ONE)
    assert command.argv[:3] == ("python", "-m", "flagdeploy.server")
    options = parse(list(command.argv[3:]))
    assert str(options.model) == "/models/tiny"
    assert (options.host, options.port) == ("127.0.0.1", 8000)
    assert options.served_model_name == "tiny"
    assert (options.dtype, options.load_format, options.device) == ("bfloat16", "dummy", "cuda:1")
    assert (options.max_model_len, options.max_num_seqs) == (512, 16)
    assert options.reasoning_parser == "deepseek_r1"
    assert options.trust_remote_code


def test_fp8_checkpoints_are_converted_first(pytorch):
    deployment = replace(TINY, model=replace(TINY.model, precision="fp8"))
    assert pytorch.problems(deployment, ONE) == [
        ("model.precision", "it loads BF16, FP16 and FP32, not fp8: `flagdeploy dequant --to bf16`")
    ]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_plain_precision_is_taken_as_it_is(pytorch, precision):
    deployment = replace(TINY, model=replace(TINY.model, precision=precision))
    assert pytorch.problems(deployment, ONE) == []


def test_it_runs_on_one_device_of_one_host(pytorch):
    deployment = replace(TINY, parallel=Parallel(tensor=2), engine_args={"quiet": False})
    assert pytorch.problems(deployment, TWO) == [
        ("parallel.tensor", "the pytorch engine: it runs on one device"),
        ("engine_args.quiet", "its switches have no negative form: leave it out"),
        ("hostfile", "it runs on one host, but 2 are given (max_hosts 1)"),
    ]


def test_profiles_are_off_without_a_folder(pytorch):
    assert not parse(list(pytorch.commands(TINY, ONE)[0].argv[3:])).profile_dir
    profiled = pytorch.commands(of(TINY, profiler=Profiler("/traces")), ONE)[0]
    assert str(parse(list(profiled.argv[3:])).profile_dir) == "/traces"
    assert pytorch.table.packages == ("flagdeploy", "transformers")
