"""Hand-made traces in kineto's form: what a profile of one process on one device looks like."""

import gzip
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Recording:
    """Time goes on with every event; `operator` nests what is made inside of it."""

    device: str = "NVIDIA H200"
    pid: int = 4242
    first_id: int = 1
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = itertools.count(self.first_id)
        self.now = 1000.0
        self._inside: list[dict[str, Any]] = []

    def operator(self, name: str, *, tid: int = 1, category: str = "cpu_op") -> "Recording":
        event = {"ph": "X", "cat": category, "name": name, "pid": self.pid, "tid": tid}
        event |= {"ts": self.tick(), "args": {"External id": next(self.ids)}}
        self._inside.append(event)
        self.events.append(event)
        return self

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        event = self._inside.pop()
        event["dur"] = self.tick() - event["ts"]

    def launch(
        self,
        kernel: str,
        us: float,
        *,
        tid: int = 1,
        call: str = "cudaLaunchKernel",
        category: str = "cuda_runtime",
        called: bool = True,
        external: bool = True,
        kernels: int = 1,
    ) -> None:
        """The call that launches, and what the device ran."""
        correlation = next(self.ids)
        args: dict[str, Any] = {"correlation": correlation}
        if external and self._inside:
            args["External id"] = self._inside[-1]["args"]["External id"]
        if called:
            event = {"ph": "X", "cat": category, "name": call, "pid": self.pid, "tid": tid}
            self.events.append({**event, "ts": self.tick(), "dur": 0.25, "args": args})
        for _ in range(kernels):
            self.on_device(
                "kernel", kernel, us, {**args, "grid": [64, 1, 1], "est. occupancy %": 3}
            )

    def on_device(self, category: str, name: str, us: float, args: dict[str, Any]) -> None:
        event = {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": 7}
        event |= {"ts": self.tick() + 40, "dur": us, "args": {"device": 0, "stream": 7, **args}}
        self.events.append(event)

    def tick(self) -> float:
        self.now += 1.5
        return self.now

    def whole(self) -> dict[str, Any]:
        named = {"name": "process_name", "ph": "M", "ts": 0, "pid": 0, "tid": 0}
        flow = {"ph": "s", "id": 3, "cat": "ac2g", "name": "ac2g", "pid": 0, "tid": 7, "ts": 1}
        return {
            "schemaVersion": 1,
            "deviceProperties": [{"id": 0, "name": self.device, "numSms": 132}],
            "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 1},
            "displayTimeUnit": "ms",
            "baseTimeNanoseconds": 1759302738000000000,
            "traceEvents": [named, *self.events, flow],
            "traceName": "trace.json",
        }

    def write(self, path: Path) -> Path:
        return write(path, self.whole())


def write(path: Path, content: Any) -> Path:
    text = json.dumps(content, indent=2).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
