"""The command line: the commands, and errors turned into exit codes, nothing else."""

import errno
import signal
import sys
from typing import Annotated, Any

import typer
import typer.core

from flagdeploy import __version__
from flagdeploy.cli.commands import COMMANDS, Commands
from flagdeploy.cli.output import out
from flagdeploy.errors import FlagdeployError

INTERRUPTED = 130


class Group(typer.core.TyperGroup):
    """The error boundary: every FlagdeployError, and every file that cannot be read or written,
    becomes two lines on stderr and its exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FlagdeployError as error:
            out.error(error)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # typer ends quietly when nobody reads on (`| head`)
            out.error(FlagdeployError(_explained(error)))
            raise typer.Exit(FlagdeployError.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _explained(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename is not None else what


app = typer.Typer(
    cls=Group,
    name="flagdeploy",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help would triple the start-up
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"flagdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One YAML, any accelerator, provably the same model.

    The whole way, from a checkpoint to a verdict:

    \b
      flagdeploy pull --ckpt deepseek-ai/DeepSeek-R1   download and verify
      flagdeploy dequant --to bf16                     FP8 to BF16, shard by shard
      flagdeploy serve deepseek_r1 --dry-run           the exact plan for every host
      flagdeploy serve deepseek_r1                     start it, wait for a token
      flagdeploy eval --dataset gsm8k,math500          scores of public test sets
      flagdeploy compare --baseline h100               PASS, FAIL, DIFFERENT or INCONCLUSIVE

    Exit codes: 0 done or PASS, 1 failed, FAIL or DIFFERENT, 2 usage or configuration,
    3 INCONCLUSIVE, 130 interrupted. Results go to stdout, everything else to stderr.
    """


def main() -> None:
    # What ends a command politely ends it as Ctrl-C does: it stops what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
