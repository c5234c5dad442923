"""Imports point downwards only: the picture in the README is the code."""

import ast
from pathlib import Path

import flagdeploy

PACKAGE = Path(flagdeploy.__file__).parent
LAYERS = [
    "cli",
    "workflows",
    "plans",
    "vendors engines launchers patching checkpoint evals server operators",
    "formats",
    "records",
    "config",
    "errors",
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}


def imported_parts(tree: ast.AST) -> set[str]:
    """First path components below `flagdeploy` of every import, also those inside functions."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {m.split(".")[1] for m in modules if m.startswith("flagdeploy.")}


def wrong_imports(part: str, tree: ast.AST) -> set[str]:
    theirs = imported_parts(tree) - {part, "__version__"}
    return {other for other in theirs if RANK[other] <= RANK[part]}


def test_imports_point_downwards() -> None:
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in RANK and "_workspace" not in path.parts:
            bad = wrong_imports(part, ast.parse(path.read_text()))
            if bad:
                wrong[str(path.relative_to(PACKAGE))] = bad
    assert not wrong


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(RANK)


def test_the_check_sees_a_wrong_arrow() -> None:
    assert wrong_imports("vendors", ast.parse("def f():\n    from flagdeploy import plans"))
    assert wrong_imports("engines", ast.parse("import flagdeploy.vendors.base"))
    assert not wrong_imports("plans", ast.parse("from flagdeploy.config.launch import Host"))
