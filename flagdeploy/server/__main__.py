"""``python -m flagdeploy.server``: load a checkpoint, serve it until SIGTERM or SIGINT.

Exit status: 0 after a signal, 1 when the model cannot be loaded or served, 2 for wrong arguments.
"""

import argparse
import asyncio
import logging
import os
import random
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from flagdeploy.config.secret import Secret
from flagdeploy.errors import EngineError, FlagdeployError

if TYPE_CHECKING:
    from flagdeploy.server.app import Service
    from flagdeploy.server.model import LoadedModel

log = logging.getLogger("flagdeploy.server")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flagdeploy.server", allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="local checkpoint directory")
    add("--host", default="127.0.0.1", help="the only address to listen on")
    add("--port", type=int, default=8000, help="0 picks a free one")
    add("--served-model-name", metavar="NAME", help="name in the API (default: DIR's name)")
    add("--device", default="cpu", help="any torch device: cpu, cuda, cuda:1, mlu, ...")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "auto"])
    add(
        "--max-num-seqs", type=_positive, default=16, metavar="N", help="sequences that run at once"
    )
    add("--max-waiting", type=_positive, default=1024, metavar="N", help="sequences that may wait")
    add("--max-model-len", type=_positive, metavar="N", help="prompt and output tokens together")
    add("--max-logprobs", type=int, default=20, metavar="K", help="-1: the whole vocabulary")
    add("--seed", type=int, default=0, help="for dummy weights and for requests without a seed")
    add("--load-format", default="auto", choices=["auto", "dummy"], help="dummy: random weights")
    add("--reasoning-parser", choices=["deepseek_r1"], help="split <think>...</think> off")
    add("--trust-remote-code", action="store_true", help="run Python code of the checkpoint")
    add("--threads", type=_positive, metavar="N", help="CPU threads (default: torch's choice)")
    add("--profile-dir", type=Path, metavar="DIR", help="offer profiles, with their traces there")
    add("--drain-seconds", type=float, default=3.0, help="for running requests after a signal")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    logging.getLogger("aiohttp.access").disabled = True  # the application logs requests itself
    for number in SIGNALS:  # until the server has its own way to stop
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        bound = _bind(options.host, options.port)  # before the long part, to fail early
        loaded = _load(options)
        asyncio.run(_serve(options, bound, loaded))
    except FlagdeployError as error:
        log.error("%s%s", error, f"; {error.hint}" if error.hint else "")
        return error.exit_code
    return 0


def _bind(host: str, port: int) -> socket.socket:
    """A socket bound but not yet listening: clients are refused until the model is there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            stack.pop_all()
    except OSError as error:
        raise EngineError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def _load(options: argparse.Namespace) -> "LoadedModel":
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported, below
    import torch

    from flagdeploy.server.library import enable_if_asked
    from flagdeploy.server.model import LoadOptions, load

    if options.threads:
        torch.set_num_threads(options.threads)
    random.seed(options.seed)
    loaded = load(
        LoadOptions(
            directory=options.model,
            device=options.device,
            dtype=options.dtype,
            load_format=options.load_format,
            max_model_len=options.max_model_len,
            trust_remote_code=options.trust_remote_code,
            seed=options.seed,
        )
    )
    enable_if_asked()  # weights are loaded by PyTorch's own operators
    return loaded


async def _serve(options: argparse.Namespace, bound: socket.socket, loaded: "LoadedModel") -> None:
    """Listen until a signal comes; then finish what runs, for `drain_seconds` at most."""
    from aiohttp import web

    from flagdeploy.server.app import make_app

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    service = _service(options, loaded)
    runner = web.AppRunner(make_app(service), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, bound, backlog=1024).start()
    host, port = bound.getsockname()[:2]
    log.info("serving on http://%s:%d as %s", host, port, service.name)
    await stop.wait()
    for number in SIGNALS:  # the loop would fall back to the default, which kills, when it closes
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    log.info("stopping: no new requests, running ones have %gs", options.drain_seconds)
    await service.batch.drain(options.drain_seconds)
    await runner.cleanup()
    log.info("stopped")


def _service(options: argparse.Namespace, loaded: "LoadedModel") -> "Service":
    from flagdeploy.server.app import Service
    from flagdeploy.server.batch import Batch
    from flagdeploy.server.forward import Forward
    from flagdeploy.server.metrics import Metrics
    from flagdeploy.server.profiling import Profiler

    metrics = Metrics()
    key = os.environ.get("FLAGDEPLOY_API_KEY")
    return Service(
        name=options.served_model_name or options.model.resolve().name,
        loaded=loaded,
        batch=Batch(
            Forward(loaded, options.max_num_seqs),
            max_num_seqs=options.max_num_seqs,
            max_waiting=options.max_waiting,
            metrics=metrics,
        ),
        metrics=metrics,
        max_logprobs=loaded.tokens.vocab_size if options.max_logprobs < 0 else options.max_logprobs,
        reasoning=options.reasoning_parser is not None,
        api_key=Secret(key, "FLAGDEPLOY_API_KEY") if key else None,
        profiler=Profiler(options.profile_dir) if options.profile_dir else None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
