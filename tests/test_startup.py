"""Start-up stays light: what a command does not need, it does not import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "docker", "paramiko", "huggingface_hub", "requests", "asyncio", "aiohttp"}
COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "a dry run": ["serve", "deepseek_r1", "--dry-run"],
    "a wrong key": ["serve", "deepseek_r1", "--dry-run", "paralel.tensor=8"],
    "config show": ["config", "show", "deepseek_r1"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_no_heavy_import(arguments: list[str]) -> None:
    assert not imported_by(arguments) & HEAVY


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_no_configuration_for_nothing(argument: str) -> None:
    assert not imported_by([argument]) & {"yaml", "omegaconf", "rich"}


def imported_by(arguments: list[str]) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "flagdeploy", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    imported = {
        line.rpartition("|")[2].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "typer" in imported
    return imported
