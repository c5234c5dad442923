"""Profiles of what the model does, as vLLM offers them: POST /start_profile and /stop_profile."""

import logging
import os
import time
from pathlib import Path

import torch

from flagdeploy.errors import EngineError
from flagdeploy.server.refusal import Refusal

log = logging.getLogger(__name__)


class Profiler:
    """Writes one trace of torch.profiler for each profile into `folder`.

    Its methods run in the thread that runs the model: torch records the operators of the thread
    that starts a profile, and kernels of the device whoever launches them. Raises EngineError for a
    folder that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: torch.profiler.profile | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"--profile-dir {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise EngineError(f"--profile-dir {folder}: cannot be written")

    def start(self) -> None:
        """Raises `Refusal` 400 while a profile runs."""
        if self._running:
            raise Refusal("a profile runs already: POST /stop_profile ends it")
        # Everything that this build of torch can record: the CPU, and its device if it has one.
        profile = torch.profiler.profile()
        profile.start()
        self._running = profile
        log.info("profile started")

    def stop(self) -> Path:
        """Write the trace under its name once it is whole; `Refusal` 400 when no profile runs."""
        if self._running is None:
            raise Refusal("no profile runs: POST /start_profile begins one")
        profile, self._running = self._running, None
        profile.stop()
        path = self.folder / f"{os.getpid()}.{time.time_ns()}.pt.trace.json.gz"
        unfinished = path.with_name(f".{path.name}")
        profile.export_chrome_trace(str(unfinished))
        unfinished.replace(path)
        log.info("profile written: %s", path)
        return path
