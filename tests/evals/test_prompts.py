"""Files of prompts are read in every shape that question files have, or refused by line."""

import json
from pathlib import Path

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.prompts import Prompt, read_prompts

QUESTIONS = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1" / "questions"


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes('Hello?\n\n  \n  two\u2028still two\r\n{"prompt": 1}'.encode())
    assert read_prompts(path) == [
        Prompt(f"{path}:1", user("Hello?"), "Hello?"),
        Prompt(f"{path}:4", user("  two\u2028still two"), "  two\u2028still two"),
        Prompt(f"{path}:5", user('{"prompt": 1}'), '{"prompt": 1}'),
    ]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"messages": talk, "prompt": "not this"},
        {"prompt": "as it is\nof two lines"},
        {"question": "Which?", "options": ["this {A}", "that"], "answer": "A"},
        {"problem": "2+2", "answer": 4},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    listed = "Which?\nA. this {A}\nB. that"
    assert read_prompts(path) == [
        Prompt(f"{path}:1", tuple(talk), None),
        Prompt(f"{path}:2", user("as it is\nof two lines"), "as it is\nof two lines"),
        Prompt(f"{path}:3", user(listed), listed),
        Prompt(f"{path}:4", user("2+2"), "2+2"),
    ]


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 400), ("mmlu", 400), ("aime", 200)])
def test_the_questions_in_the_box(name: str, count: int) -> None:
    assert len(read_prompts(QUESTIONS / f"{name}.jsonl")) == count


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "not JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"),
        ('{"text": "a"}', "has none of messages, prompt, question, problem"),
        ('{"prompt": ""}', "has none of messages, prompt, question, problem"),
        ('["a"]', "has none of messages, prompt, question, problem"),
        ('{"prompt": 1}', "prompt is not text"),
        ('{"question": "a", "options": ["b", 1]}', "options are not a list of texts"),
        ('{"messages": "a"}', "messages are not a list of role and content"),
        ('{"messages": [{"role": "user"}]}', "messages are not a list of role and content"),
    ],
)
def test_lines_that_are_no_prompt(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "good"}}\n\n{line}\n')
    with pytest.raises(UsageError) as caught:
        read_prompts(path)
    assert str(caught.value) == f"{path}:3: {message}"


def test_files_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        read_prompts(path)
    path.write_text("\n \n")
    with pytest.raises(UsageError, match="prompts.txt: holds no prompts"):
        read_prompts(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="prompts.txt: is not UTF-8 text"):
        read_prompts(path)
