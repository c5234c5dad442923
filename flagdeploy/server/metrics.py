"""Counters of the server in Prometheus' text format, named after vLLM's.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections import Counter
from dataclasses import dataclass, field

PREFIX = "flagdeploy:"


@dataclass
class Metrics:
    """`running` and `waiting` are gauges of sequences; the rest only grows."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    non_finite: int = 0
    errors: int = 0

    def render(self, model: str) -> str:
        label = f'model_name="{_escaped(model)}"'
        lines = [
            *_metric("num_requests_running", "gauge", {label: self.running}),
            *_metric("num_requests_waiting", "gauge", {label: self.waiting}),
            *_metric("prompt_tokens_total", "counter", {label: self.prompt_tokens}),
            *_metric("generation_tokens_total", "counter", {label: self.generation_tokens}),
            *_metric(
                "request_success_total",
                "counter",
                {
                    f'{label},finished_reason="{reason}"': self.finished[reason]
                    for reason in ("stop", "length", "abort")
                },
            ),
            *_metric("request_error_total", "counter", {label: self.errors}),
            *_metric("non_finite_logits_total", "counter", {label: self.non_finite}),
        ]
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, samples: dict[str, int]) -> list[str]:
    lines = [f"{PREFIX}{name}{{{labels}}} {value}" for labels, value in samples.items()]
    return [f"# TYPE {PREFIX}{name} {kind}", *lines]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
