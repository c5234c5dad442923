"""Fixtures that several packages share."""

import os
import signal

import pytest
from hypothesis import settings

# A run of CI judges the change, not the luck of the draw; elsewhere every run draws anew.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell that runs the tests in the background makes them ignore Ctrl-C, and so their children, of
# which some are sent one.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["proving_ground.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files under tests/cases"
    )


def pytest_report_header() -> list[str]:
    from importlib.metadata import version

    names = ("omegaconf", "typer", "paramiko", "docker", "torch", "transformers", "numpy")
    return ["versions: " + ", ".join(f"{name} {version(name)}" for name in names)]
