"""Values travel as arguments: shell text is a constant of the code, and nothing is put into it."""

import ast
import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from config.generated_pairs import NAMES, TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from flagdeploy import engines, vendors
from flagdeploy.config import workspace
from flagdeploy.config.facts import Facts
from flagdeploy.config.load import Loaded, load
from flagdeploy.plans.serve import plan_serve

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flagdeploy"
SHELLS = {"sh", "bash", "dash", "zsh", "/bin/sh", "/bin/bash"}
CANARY = "canary7 "


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text()
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def scripts_of(name: str, tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """What stands after ``sh -c`` in the argument lists of a module, each with its place."""
    for node in ast.walk(tree):
        words = node.elts if isinstance(node, ast.List | ast.Tuple) else []
        for first, second, script in zip(words, words[1:], words[2:], strict=False):
            shell = isinstance(first, ast.Constant) and first.value in SHELLS
            if shell and isinstance(second, ast.Constant) and second.value == "-c":
                yield f"{name}:{script.lineno}", script


def constant(name: str, tree: ast.Module, expression: ast.expr) -> str | None:
    """The text of a literal, or of a name that a module sets once, to a literal."""
    if isinstance(expression, ast.Constant):
        return str(expression.value)
    if not isinstance(expression, ast.Name):
        return None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(a.name == expression.id for a in node.names):
            return constant(node.module or "", modules()[node.module or ""], expression)
    set_to = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == expression.id for t in node.targets)
    ]
    literal = len(set_to) == 1 and isinstance(set_to[0], ast.Constant)
    return str(getattr(import_module(name), expression.id)) if literal else None


@cache
def scripts() -> dict[str, str | None]:
    """All shell text of the package by its place; None where it is not constant."""
    return {
        place: constant(name, tree, script)
        for name, tree in modules().items()
        for place, script in scripts_of(name, tree)
    }


def test_shell_text_is_constant() -> None:
    assert [place for place, text in scripts().items() if text is None] == []
    assert len(scripts()) > 5
    assert 'eval "$0" && exec "$@"' in scripts().values()


def test_no_shell_is_started_in_another_way() -> None:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, f"{name}:{node.value.lineno}"
            if isinstance(node, ast.Attribute):
                called = f"{getattr(node.value, 'id', '')}.{node.attr}"
                assert called not in ("os.system", "os.popen", "subprocess.getoutput"), name


def test_what_goes_over_ssh_is_a_joined_argument_list() -> None:
    """SSH knows one text only, which the shell of the user there takes apart (RFC 4254, 6.5)."""
    for name, tree in modules().items():
        joined = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("shlex.join(")
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "exec_command":
                (sent,) = map(ast.unparse, node.args)
                assert sent in joined or sent.startswith("shlex.join("), f"{name}:{node.lineno}"


VARIANTS = [
    (name, path.stem)
    for name in workspace.deployments(ROOT)
    for path in sorted((ROOT / "examples" / name / "serve").glob("*.yaml"))
]
VALUE = TEXT.map(CANARY.__add__)
VALUES = st.dictionaries(NAMES, VALUE, max_size=3)


@cache
def shipped(name: str, variant: str) -> Loaded:
    return load(name, variant, root=ROOT)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@settings(max_examples=8)
@given(st.data())
def test_no_value_of_a_configuration_is_in_shell_text(
    name: str, variant: str, data: st.DataObject
) -> None:
    of = shipped(name, variant)
    given, path = of.deployment, data.draw(VALUE.map(lambda text: f"/{text.replace(':', '')}"))
    model = replace(
        given.model, checkpoint=path, source=f"{path}-source", served_name=data.draw(VALUE)
    )
    model = replace(model, weight_cache=f"{path}-cache" if model.weight_cache else "")
    container = replace(
        given.container,
        env={**given.container.env, **data.draw(VALUES)},
        rank_env={"0": data.draw(VALUES)},
        prelude=data.draw(st.just("") | VALUE),
        image=data.draw(VALUE),
        mounts=[f"{path}-a:{path}-b", *given.container.mounts],
        workdir=path,
        user=data.draw(VALUE),
    )
    args = {**given.engine_args, **data.draw(VALUES), "x-deep": data.draw(VALUES)}
    changed = replace(given, model=model, container=container, engine_args=args)
    if len(of.hosts) == 1 and given.engine != "tensorrt_llm":
        changed = replace(changed, launcher=data.draw(st.sampled_from(["ssh", "local"])))
    engine, vendor = engines.load(given.engine, ROOT), vendors.load(given.vendor, ROOT)
    plan = plan_serve(changed, of.hosts, Facts(), engine, vendor, "run")
    found = list(argument_lists(plan))
    assert any(CANARY in word for words in found for word in words)
    for words in found:
        for first, second, script in zip(words, words[1:], words[2:], strict=False):
            if first in SHELLS and second == "-c":
                assert script in scripts().values()


def argument_lists(value: Any) -> Iterator[tuple[str, ...]]:
    """Every list of words in a plan, of whatever step."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from argument_lists(getattr(value, field.name))
    elif isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        yield tuple(value)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from argument_lists(inner)
