"""What asking a full GSM8K takes of this program's own time, and what killing it loses.

    python tests/benchmarks/asking.py FOLDER [--rounds 3] [--kills 10] [--lm-eval .../bin/lm-eval]

The 1319 questions of ${FLAGDEPLOY_DATA}/gsm8k/test.jsonl (as many made up, where there are none)
are asked at an endpoint that takes no time, in another process. Measured are whole commands, from
the start of the interpreter to the last byte on disk, by the clock and in seconds of a core; the
endpoint's own are told apart. The bar: 15 s of a core. Then the same run is killed (SIGKILL) at
random moments until it is through: the answers must be the same bytes, and no more asked again
than was in flight. With --lm-eval the same questions by `lm-eval run --model
local-chat-completions`, rounds interleaved; how long it takes with one question tells its start
from the asking.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUESTIONS = 1319
AT_ONCE = 16
BENCHMARK = """
benchmarks:
  - {name: gsm8k, shape: gsm8k, file: test.jsonl, prompt: "{question}", max_tokens: 512}
"""
TASK = """
task: gsm8k_here
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer.split('####')[-1].strip()}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 512}
filter_list:
  - name: last
    filter:
      - {function: regex, regex_pattern: "#### (-?[0-9.,]+)"}
      - {function: take_first}
metric_list: [{metric: exact_match, ignore_case: true}]
"""


@dataclass(frozen=True)
class Taken:
    """Seconds by the clock, seconds of a core, peak memory in MB."""

    wall: float
    core: float
    memory: float


def write_questions(folder: Path, times: int = 1) -> Path:
    """`folder`/test.jsonl and its benchmark.yaml; each question `times` times, told apart."""
    data = Path(os.environ.get("FLAGDEPLOY_DATA", "")) / "gsm8k" / "test.jsonl"
    if data.is_file():
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    else:
        words = "one two three " * 15
        rows = [
            {"question": f"{n}: {words}", "answer": f"{words * 2}#### {n}"}
            for n in range(QUESTIONS)
        ]
    folder.mkdir(parents=True)
    lines = (
        json.dumps({**row, "question": row["question"] + " " * n}) + "\n"
        for n in range(times)
        for row in rows
    )
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "benchmark.yaml").write_text(BENCHMARK)
    return folder


@contextlib.contextmanager
def endpoint(questions: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A fast endpoint for the questions of this folder: its URL and its process."""
    with subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("fast_endpoint.py")),
            questions / "test.jsonl",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process


def ended(process: "subprocess.Popen[str]") -> tuple[int, float]:
    """End an endpoint: the chat completions it served, its seconds of a core."""
    served, core = process.communicate()[0].split()
    return int(served), float(core)


def measured(command: Sequence[str | Path], log: Path) -> Taken:
    """A command that must succeed, its output in `log`."""
    with log.open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment())
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    if status:
        sys.exit(f"{command[0]} failed, see {log}")
    return Taken(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment() -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": str(ROOT)}


def asking(url: str, questions: Path, record: Path, limit: int | None = None) -> list[str | Path]:
    return [sys.executable, __file__, "--ask", url, questions, record, str(limit or QUESTIONS * 99)]


def ask(url: str, questions: Path, record: Path, limit: int) -> None:
    """What the measured command does: read, probe, ask, grade, record, count."""
    from flagdeploy.evals.answers import AnswerLog, account, ask, write_answers
    from flagdeploy.evals.benchmarks import load_benchmarks
    from flagdeploy.evals.capabilities import probe
    from flagdeploy.evals.client import Client, Endpoint, run
    from flagdeploy.evals.items import load_items
    from flagdeploy.records.events import silent

    async def work() -> None:
        items = [item for row in load_benchmarks(questions) for item in load_items(row)]
        async with Client(Endpoint(url), AT_ONCE) as client:
            log = AnswerLog(record / "answers.jsonl")
            found = await probe(client)
            items = items[:limit]
            answers = await ask(client, found, items, log=log, report=silent, stage="answer")
        write_answers(record / "answers.graded.jsonl", answers)
        right = sum(answer.score or 0 for answer in answers)
        print(f"{right / len(answers):.4f} of {len(answers)} right,", account(answers))

    run(work())


def lm_eval(
    program: Path, url: str, questions: Path, out: Path, limit: int | None = None
) -> list[str | Path]:
    tasks = questions / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "gsm8k_here.yaml").write_text(TASK % (questions / "test.jsonl"))
    arguments = f"model=fast,base_url={url}/chat/completions,num_concurrent={AT_ONCE},"
    arguments += "tokenizer_backend=None,tokenized_requests=False,max_retries=3"
    command = [program, "run", "--model", "local-chat-completions", "--model_args", arguments]
    command += ["--tasks", "gsm8k_here", "--include_path", tasks, "--apply_chat_template"]
    command += ["--limit", str(limit)] if limit else []
    return [*command, "--output_path", out, "--log_samples"]


def side_by_side(folder: Path, rounds: int, program: Path | None) -> None:
    questions = write_questions(folder / "questions")
    taken: dict[tuple[str, int], list[tuple[Taken, float]]] = {}
    for number in range(rounds):
        for name in ("flagdeploy", "lm-eval") if program else ("flagdeploy",):
            for limit in (1, QUESTIONS):
                place = folder / f"{name}-{limit}-{number}"
                with endpoint(questions) as (url, process):
                    command = asking(url, questions, place, limit)
                    if name == "lm-eval" and program:
                        command = lm_eval(program, url, questions, place, limit)
                    result = measured(command, place.with_suffix(".log"))
                    _, core = ended(process)
                taken.setdefault((name, limit), []).append((result, core))
    print(f"{'medians of ' + str(rounds) + ' rounds':28} clock s  core s    MB  endpoint's core s")
    medians = {}
    for (name, limit), results in taken.items():
        wall, core, memory = (
            statistics.median(getattr(result, field) for result, _ in results)
            for field in ("wall", "core", "memory")
        )
        medians[name, limit] = core
        other = statistics.median(core for _, core in results)
        row = f"{name}, {limit} question(s)"
        print(f"{row:28} {wall:7.2f} {core:7.2f} {memory:5.0f} {other:18.2f}")
    print((folder / f"flagdeploy-{QUESTIONS}-0.log").read_text().strip())
    if program:
        lines = (folder / f"lm-eval-{QUESTIONS}-0.log").read_text(errors="replace").splitlines()
        print("lm-eval:", *(line for line in lines if "exact_match" in line and "|" in line))
        whole, start = (medians["lm-eval", n] / medians["flagdeploy", n] for n in (QUESTIONS, 1))
        asked = [medians[name, QUESTIONS] - medians[name, 1] for name in ("lm-eval", "flagdeploy")]
        print(
            f"core s of lm-eval over those of flagdeploy: {whole:.1f} times in all, {start:.1f} "
            f"for the start, {asked[0] / asked[1]:.1f} for the asking"
        )


def memory(folder: Path) -> None:
    """Peak memory beside the bytes of the answers, for ten times the questions."""
    for times in (1, 10):
        questions = write_questions(folder / f"questions-{times}", times)
        with endpoint(questions) as (url, process):
            record = folder / f"memory-{times}"
            result = measured(asking(url, questions, record), folder / f"memory-{times}.log")
            served, _ = ended(process)
        size = (record / "answers.jsonl").stat().st_size / 1e6
        print(f"{served} questions: {result.memory:.0f} MB peak, {size:.1f} MB of replies recorded")


def kill(folder: Path, kills: int) -> None:
    questions = write_questions(folder / "killed")
    calm, restless = folder / "calm", folder / "restless"
    with endpoint(questions) as (url, process):
        measured(asking(url, questions, calm), folder / "calm.log")
        size = (calm / "answers.jsonl").stat().st_size
        for moment in sorted(random.sample(range(size), kills)):
            one = subprocess.Popen(asking(url, questions, restless), env=environment())
            log = restless / "answers.jsonl"
            while not log.exists() or log.stat().st_size < moment:
                time.sleep(0.001)
            one.kill()
            one.wait()
        measured(asking(url, questions, restless), folder / "restless.log")
        served, _ = ended(process)
    first, second = ((place / "answers.graded.jsonl").read_bytes() for place in (calm, restless))
    # Each start asked one chat completion that is no question, to see what the endpoint can do.
    again = served - 2 * QUESTIONS - (kills + 2)
    print(
        f"killed {kills} times: the result is {'the same' if first == second else 'NOT the same'}, "
        f"{len(second)} bytes; {again} questions were asked again, {AT_ONCE * kills} in flight "
        "would have been"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--lm-eval", type=Path, dest="program")
    options = parser.parse_args()
    side_by_side(options.folder, options.rounds, options.program)
    memory(options.folder)
    kill(options.folder, options.kills)


if __name__ == "__main__":
    if sys.argv[1] == "--ask":
        ask(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
