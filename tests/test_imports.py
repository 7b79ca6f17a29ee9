"""Who may import whom, and what an import costs."""

import ast
import os
import resource
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_store import backend

ROOT = Path(__file__).parent.parent

# cli → runtime → aio → run → store → {episode, reading, record, backend} → {state, delta, key, body, errors}.
LAYERS = [
    {"errors", "zstd"},
    {"key", "body"},
    {"state", "delta"},
    {"backend", "record"},
    {"reading"},
    {"episode"},
    {"store"},
    {"run"},
    {"aio", "operations"},
    {"runtime"},
    {"cli"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
ONLY_WHEN_CALLED = {("store", "run")}


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports at run time, in dotted form; what only a type checker reads does not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_each_module_imports_only_what_is_below_it() -> None:
    for path in (ROOT / "durable_store").rglob("*.py"):
        name = path.relative_to(ROOT / "durable_store").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        for module in imports_of(path):
            parts = module.split(".")
            if (
                parts[0] == "durable_store"
                and len(parts) > 1
                and parts[1] in RANK
                and (name, parts[1]) not in ONLY_WHEN_CALLED
            ):
                assert RANK[parts[1]] < RANK[name] or parts[1] == name, f"{path.name} imports {module}"


def test_the_core_never_imports_backends_or_the_suite() -> None:
    for path in (ROOT / "durable_store").rglob("*.py"):
        for module in imports_of(path):
            assert not module.startswith(("durable_store_backends", "durable_store_conformance")), path


def test_a_backend_imports_only_key_errors_and_backend() -> None:
    for path in (ROOT / "backends").rglob("*.py"):
        for module in imports_of(path):
            parts = module.split(".")
            if parts[0] == "durable_store":
                assert parts[1] in {"key", "errors", "backend"}, f"{path.name} imports {module}"


def test_importing_the_package_loads_no_optional_library() -> None:
    code = "import sys, durable_store; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.split(".")[0] for module in done.stdout.split()}
    assert loaded.isdisjoint({"boto3", "botocore", "fsspec", "typer", "click", "rich", "apsw", "pytest"})


def test_opening_a_store_of_ours_does_not_look_through_what_is_installed() -> None:
    code = "import sys, durable_store; durable_store.open_store('sqlite:///a.db'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "importlib.metadata" not in done.stdout.split()


def test_our_schemes_are_those_of_our_entry_points() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["entry-points"][backend.ENTRY_POINTS]
    assert {name: where for name, where in named.items() if name != "fsspec"} == backend._OURS


def cpu_seconds(code: str) -> float:
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # orjson is compiled; this package is, too, after the first time
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.prove
def test_importing_the_package_costs_at_most_two_and_a_half_times_orjson(record_figure: Callable[[str], None]) -> None:
    """Interleaved, the least of 21 each (what others do on the machine only adds), less an empty interpreter's."""
    rounds = [[cpu_seconds(code) for code in ("pass", "import orjson", "import durable_store")] for _ in range(21)]
    empty, orjson, ours = (min(column) for column in zip(*rounds, strict=True))
    ratio = (ours - empty) / (orjson - empty)
    record_figure(
        f"import durable_store {1000 * (ours - empty):.1f} ms CPU, orjson alone {1000 * (orjson - empty):.1f} ms:"
        f" {ratio:.2f} times that (whole processes {ours / orjson:.2f} times)"
    )
    assert ratio <= 2.5
