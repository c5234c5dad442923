"""A folder with a benchmark of each shape, one question in each."""

import json
from pathlib import Path
from typing import Any

import yaml

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "Two {x}?", "answer": "1+1\n#### 2"}],
    "mmlu": [{"question": "Which?", "options": ["p", "q"], "answer": "B", "topic": "t"}],
    "aime": [{"problem": "How many?", "answer": 70}],
}


def folder(tmp_path: Path, **changes: Any) -> Path:
    rows = [
        {
            "name": shape,
            "shape": shape,
            "file": f"{shape}.jsonl",
            "prompt": "{question}\nPut it in \\boxed{}.",
            "max_tokens": 9,
        }
        for shape in ROWS
    ]
    rows[0] |= changes
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"benchmarks": rows}))
    for shape, questions in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in questions)
        (tmp_path / f"{shape}.jsonl").write_text(lines)
    return tmp_path
