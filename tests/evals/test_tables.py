from pathlib import Path

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.tables import Score, parse_score, read_pairs, read_table

# every spelling seen on published model cards
CELLS = [
    ("95.75", 1319, Score(0.9575, 1319)),
    ("**82.16**", None, Score(0.8216, None)),
    ("76.67(+-0.67)", 30, Score(0.7667, 30)),
    ("76.67 \u00b1 0.67", 30, Score(0.7667, 30)),
    ("23/30", None, Score(23 / 30, 30)),
    ("70.2%", 198, Score(0.702, 198)),
    ("70.21", 198, Score(0.7021, 198, reproduced=False)),
    ("TBD", 30, None),
    ("-", 30, None),
    ("", None, None),
    ("None", None, None),
]


@pytest.mark.parametrize(("cell", "n", "score"), CELLS)
def test_a_cell_of_a_model_card(cell: str, n: int | None, score: Score | None) -> None:
    parsed = parse_score(cell, n)
    if parsed is None or score is None:
        assert parsed is score
    else:
        assert (parsed.n, parsed.reproduced) == (score.n, score.reproduced)
        assert parsed.value == pytest.approx(score.value)


@pytest.mark.parametrize("cell", ["good", "95.75 points", "1 2"])
def test_what_is_not_a_score(cell: str) -> None:
    with pytest.raises(UsageError, match=f"`{cell}` is not a score"):
        parse_score(cell)


def test_more_than_all() -> None:
    with pytest.raises(UsageError, match="`957.5` is more than all of the questions"):
        parse_score("957.5")


def test_a_table_of_fractions_is_not_one_of_percentages(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("task, n, base, cand\nMUSR, 100, 0.73, 0.71\nAIME, 30, 0.70, 22/30\n")
    rows = read_pairs(path)
    assert [(row.baseline.value, row.candidate.value) for row in rows] == [  # type: ignore[union-attr]
        (0.73, 0.71),
        (0.70, 22 / 30),
    ]


def test_a_low_percentage_beside_higher_ones_stays_a_percentage(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("- {task: a, n: 1000, base: 0.9, cand: 1.1}\n")
    (row,) = read_pairs(path)
    assert row.baseline is not None
    assert row.baseline.value == pytest.approx(0.009)


def test_missing_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("task,h100,mlu\na,1,2\n")
    with pytest.raises(UsageError, match="needs the columns task,n,base,cand"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "No such file or directory"),
        ("t.csv", b"\xff\xfe\x00", "is not text in UTF-8"),
        ("t.md", b"**One YAML**\n", 'while scanning an alias in "<unicode string>", line 1'),
        ("t.yaml", b"task: x\n", "needs the columns task,n,base,cand"),
        ("t.yaml", b"[1, 2]\n", "needs the columns task,n,base,cand"),
        ("t.csv", b"", "needs the columns task,n,base,cand"),
    ],
)
def test_a_file_that_is_no_table(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_pairs(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("n", ["many", "1.5", "0", "-3"])
def test_what_is_no_number_of_questions(n: str) -> None:
    with pytest.raises(UsageError, match=f"`{n}` is not a number of questions"):
        parse_score("50", n)


@pytest.mark.parametrize("cell", ["31/30", "0/0"])
def test_more_right_than_asked(cell: str) -> None:
    with pytest.raises(UsageError, match=f"`{cell}` is more than all of the questions"):
        parse_score(cell)


def test_a_published_table_needs_scores(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    for text in ("[1]", "scores: {MMLU: 3}", "title: x"):
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            read_table(path)
        assert str(error.value) == (
            f"{path}: a table of published scores has `scores: {{TASK: {{n, value}}}}`"
        )
