"""`flagdeploy eval`."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

GRADERS = {"both": ("mlperf", "lenient"), "mlperf": ("mlperf",), "lenient": ("lenient",)}


def eval_(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|URL]",
            help="A running deployment or an endpoint. Default: the deployment that runs.",
            autocompletion=complete.deployments,
        ),
    ] = None,
    dataset: options.DataSets = None,
    data: options.Data = None,
    benchmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A folder with benchmark.yaml. Default: the deployment's."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask at most this many questions of each set.")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Ask each question so often. Default: what the set usually has."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Default: what the set usually has; 0 is greedy.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0)] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest reply, thoughts included.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat r is asked with seed + r.")] = None,
    grader: Annotated[
        str,
        typer.Option(
            metavar="both|mlperf|lenient",
            help="Whose scores are printed.",
            autocompletion=complete.graders,
        ),
    ] = "both",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight, at most.")] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="PER_SECOND",
            min=0.001,
            help="Send at random moments (Poisson), for accuracy under load. Default: one when "
            "another has ended.",
        ),
    ] = None,
    code_image: Annotated[
        str | None,
        typer.Option(
            "--code-image",
            metavar="REF",
            help="Run generated code in containers of this image, on the first host.",
        ),
    ] = None,
    hosts: options.Hosts = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where answers are kept; give it again to go on."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result as JSON; `-`: stdout."),
    ] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option(
            "--lm-eval", metavar="DIR", help="Write lm-evaluation-harness's result files there."
        ),
    ] = None,
    workspace: options.Workspace = None,
    quiet: options.Quiet = False,
) -> None:
    """Ask an endpoint public test sets and grade its answers.

    Every reply is recorded as it ends, and graded by the rules of MLPerf's reference and by a
    lenient reader; both scores are printed where they differ, with the standard error (clustered
    by subject). Replies that were cut, hold no answer or never came are counted, none is dropped.
    Generated code runs in a container without network, or not at all.

    \b
      flagdeploy eval --dataset gsm8k,math500                the deployment that runs
      flagdeploy eval http://host:8000 --dataset aime25      any OpenAI-compatible endpoint
      flagdeploy eval deepseek_r1 --dataset mmlu --temperature 0.6 --top-p 0.95
      flagdeploy eval --dataset gsm8k --rate 8 --concurrency 256        under load
      flagdeploy eval --dataset gsm8k --limit 100 --record runs/mine    again: goes on
      flagdeploy eval --dataset livecodebench --code-image python:3.12-slim --hosts hosts.txt
    """
    import json

    from flagdeploy.records import eval_report
    from flagdeploy.workflows.eval import Asking, evaluate, new_record_dir

    if grader not in GRADERS:
        raise UsageError(f"--grader {grader}: there is {', '.join(GRADERS)}")
    options.check_file("--json", json_file)
    options.check_folder("--lm-eval", lm_eval)
    options.check_folder("--record", record)
    out.quiet, out.json = quiet, str(json_file) == "-"
    record = record or new_record_dir(workspace)
    with out.progress() as report:
        found = evaluate(
            source,
            options.split(dataset),
            benchmarks=benchmarks,
            data=data,
            asking=Asking(repeats, temperature, top_p, max_tokens, seed, limit, rate),
            concurrency=concurrency,
            code_image=code_image,
            hosts=hosts,
            record_dir=record,
            lm_eval=lm_eval,
            workspace=workspace,
            report=report,
        )
    result = found.to_json()
    if json_file and not out.json:
        json_file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    out.result(eval_report.text(result, GRADERS[grader]), result)
    out.note(f"answers: {record}")
