"""The help of every command teaches by example."""

import pytest
import typer
from typer.testing import CliRunner

from flagdeploy.cli.app import app


def commands() -> list[list[str]]:
    found: list[list[str]] = []
    for name, command in typer.main.get_group(app).commands.items():
        below = getattr(command, "commands", {})
        found += [[name, sub] for sub in below] if below else [[name]]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_shows_the_command_at_work(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: flagdeploy {' '.join(words)} ")
    assert f"\n    flagdeploy {' '.join(words)} " in result.stdout
    assert "--json" in result.stdout
