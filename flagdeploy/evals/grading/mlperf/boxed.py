"""MATH-500: the content of the last ``\\boxed{}`` (eval_accuracy.py `parse_boxed_math`)."""

from flagdeploy.evals.grading.replies import last_boxed


def read_boxed(text: str) -> str | None:
    """Braces matched, stripped; None when it never closes. ``\\fbox{}`` is no box."""
    box = last_boxed(text)
    return None if box is None else box.strip()
