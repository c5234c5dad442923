"""Fixtures that several packages share."""

import os
import signal

import pytest
from hypothesis import settings

# No test is a stopwatch: a machine under load is no fault of the program. A run of CI judges the
# change, not the luck of the draw; elsewhere every run draws anew.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell that runs the tests in the background makes them ignore Ctrl-C, and so their children, of
# which some are sent one.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nor does it matter how somebody has set up git (signed commits, other prefixes in a diff).
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

pytest_plugins = ["proving_ground.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files under tests/cases"
    )


LONGEST = ("end_to_end", "examples", "test_style.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the suite among processes file by file, what takes longest first.

    The fleet is one and real, so all of its tests belong to one process.
    """
    fleet = {item for item in items if item.get_closest_marker("fleet")}
    for item in items:
        group = "fleet" if item in fleet else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    long = {item for item in items if not {*item.path.parts}.isdisjoint(LONGEST)}
    items.sort(key=lambda item: (item not in fleet, item not in long))


def pytest_report_header() -> list[str]:
    from importlib.metadata import version

    names = ("omegaconf", "typer", "paramiko", "docker", "torch", "transformers", "numpy")
    return ["versions: " + ", ".join(f"{name} {version(name)}" for name in names)]
