"""Grades of generated programs: run in containers without network, or said not to have been."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from flagdeploy.errors import UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals.benchmarks import Benchmark
from flagdeploy.evals.datasets import livecodebench
from flagdeploy.evals.grading import shapes
from flagdeploy.evals.grading.code_job import CodeJob
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.grading.grader import Grades
from flagdeploy.evals.scores import Judged, Result
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Report
from flagdeploy.workflows import places
from flagdeploy.workflows.grade_code import grade_code

AT_ONCE = 32  # programs whose tests are held in memory together
Programs = dict[tuple[str, str], Grade]  # (question id, program) -> its grade


def graded(
    result: Result,
    benchmark: Benchmark,
    image: str | None,
    hosts: str | None,
    root: Path,
    data: Path | None,
    report: Report,
) -> Result:
    """`result` with the grades of its programs, or with a note that they were not run."""
    programs = _programs(result.judged)
    if not programs:
        return result
    if image is None:
        note = (
            f"{sum(map(len, programs.values()))} generated programs were not run, so they are not "
            "graded; --code-image IMAGE runs them in containers without network"
        )
        return replace(result, notes=(*result.notes, note))
    own = benchmark.dataset == "livecodebench"
    elsewhere = data if data and data.is_dir() else None
    files = benchmark.files if own else datasets.find_files("livecodebench", elsewhere, root)
    with places.launchers(None, root, hosts) as launchers:
        if not launchers:
            raise UsageError("--code-image: on which host shall it run?", "--hosts FILE")
        launcher = next(iter(launchers.values()))
        grades = _run(livecodebench.jobs(files, programs), launcher, image, report)
    return replace(result, judged=tuple(_with(one, grades) for one in result.judged))


def _programs(judged: Sequence[Judged]) -> dict[str, list[str]]:
    """Programs to run by the id of their question, each once; the graders may read two of one
    reply."""
    found: dict[str, dict[str, None]] = {}
    for one in judged:
        if one.grades is not None and shapes.runs_code(one.item.shape):
            for grade in (one.grades.mlperf, one.grades.lenient):
                if grade is not None and grade.score is None and grade.prediction:
                    found.setdefault(one.item.gold, {})[grade.prediction] = None
    return {question: list(programs) for question, programs in found.items()}


def _run(
    jobs: Iterator[tuple[str, CodeJob]], launcher: Launcher, image: str, report: Report
) -> Programs:
    grades: Programs = {}
    while batch := list(islice(jobs, AT_ONCE)):
        found = grade_code([job for _, job in batch], launcher, image, report=report)
        for (question, job), grade in zip(batch, found, strict=True):
            grades[question, job.program] = grade
    return grades


def _with(one: Judged, grades: Programs) -> Judged:
    if one.grades is None or not shapes.runs_code(one.item.shape):
        return one
    mlperf, lenient = (
        None if grade is None else _ran(one.item.gold, grade, grades)
        for grade in (one.grades.mlperf, one.grades.lenient)
    )
    assert lenient is not None
    both = Grades(mlperf, lenient)
    first = shapes.primary(one.item.shape, both)
    status = "ok" if one.answer.status == "ungraded" else one.answer.status
    answer = replace(one.answer, score=first.score, status=status, error=first.message or None)
    return Judged(one.item, answer, both)


def _ran(question: str, grade: Grade, grades: Programs) -> Grade:
    """The reference counts a program of a question without tests as wrong."""
    if grade.score is not None or not grade.prediction:
        return grade
    missing = Grade(grade.prediction, 0.0, message="no tests are known of this question")
    return grades.get((question, grade.prediction), missing)
