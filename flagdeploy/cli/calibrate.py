"""`flagdeploy calibrate`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


def calibrate(
    name: options.Name = None,
    *,
    ckpt: options.Checkpoint = None,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Text, a prompt per line; or .jsonl with messages, prompt, question or problem.",
        ),
    ],
    out_file: Annotated[
        str, typer.Option("--out", metavar="FILE", help="The scales.")
    ] = "act_scales.safetensors",
    device: Annotated[
        str, typer.Option("--device", help="Any torch device: cpu, cuda, cuda:1, mlu, ...")
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16, float16 or auto (the checkpoint's).")
    ] = "float32",
    max_tokens_per_prompt: Annotated[
        int | None,
        typer.Option("--max-tokens-per-prompt", min=1, metavar="N", help="Cut longer prompts."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Run prompts as they are, without the chat template.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the checkpoint.")
    ] = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Record the activation scales that `dequant --to w4afp8` needs, by running the model over
    prompts like those it will serve.

    The pytorch engine runs it, on one device that holds the whole model: weights stored in FP8 are
    converted to BF16 beside the output first. A model the size of DeepSeek-R1 does not fit; for it
    give dequant a published act_scales.safetensors, or the folder of amax_dict_rank*-mp*.pt that
    NVIDIA Model-Optimizer's examples/deepseek ptq.py writes on 8 GPUs.

    Of each routed expert the largest absolute input of w1 and w3, and of w2, over the tokens that
    the router sends there, is divided by 448. An expert that no token reached gets the largest
    scale of its layer, and a warning names it. Equal prompts on the same machine give equal bytes.

    \b
      flagdeploy calibrate --prompts questions.jsonl
      flagdeploy calibrate --ckpt /data/DeepSeek-V2-Lite --prompts texts.txt --raw --device cuda
      flagdeploy dequant --to w4afp8 --act-scales act_scales.safetensors
    """
    from flagdeploy.workflows.calibrate import calibrate as workflow

    out.json, out.quiet = json, quiet
    checkpoint = ckpt or options.checkpoint_of(name, workspace)
    with out.progress() as report:
        done = workflow(
            checkpoint,
            prompts,
            out_file,
            device=device,
            dtype=dtype,
            max_tokens_per_prompt=max_tokens_per_prompt,
            raw=raw,
            trust_remote_code=trust_remote_code,
            report=report,
        )
    if done.warning:
        out.warning(done.warning)
    out.result(str(done), done.to_dict())
