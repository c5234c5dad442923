"""MLPerf Inference's set for DeepSeek-R1: 4388 questions of MMLU-Pro (2410), AIME 1983-2024 (932),
MATH-500 (499), LiveCodeBench v1 (349) and GPQA (198), each with its own prompt, asked greedily.

The reference is language/deepseek-r1 (its score: tools/submission/submission_checker/constants.py).
The set is a pickled DataFrame, read as data.
"""

from flagdeploy.evals.dataset import DataSet, Manifest, Question, Row


def read(row: Row) -> Question:
    return Question(row["text_input"], str(row["ground_truth"]), benchmark=row["dataset"].lower())


DATASET = DataSet(
    title="MLPerf DeepSeek-R1",
    licence="mixed: AIME CC0, MATH and MMLU-Pro MIT, GPQA CC BY 4.0, LiveCodeBench CC",
    source=Manifest(
        "https://inference.mlcommons-storage.org/metadata/deepseek-r1-datasets-fp8-eval.uri",
        {"mlperf_deepseek_r1_dataset_4388_fp8_eval.pkl": "994a30e4787831b8c8f6e44da7de67fe"},
    ),
    files=("mlperf_deepseek_r1_dataset_4388_fp8_eval.*", "*.pkl", "*.parquet", "*.jsonl"),
    read=read,
    prompt="{question}",
    grader="",
    rule="mlperf",
    rows=4388,
    max_tokens=20000,
    reference=(81.3582, 3886.2274),
)
