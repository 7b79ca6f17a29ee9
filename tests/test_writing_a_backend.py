"""docs/WRITING_A_BACKEND.md tells the truth: its ten lines run as they stand, and what it shows is what there is."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from durable_store_conformance.exam import CLAUSES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "WRITING_A_BACKEND.md").read_text()
EXAMPLE = "\n".join(path.read_text() for path in (ROOT / "examples" / "redis_backend").glob("*.*"))
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
TEN_LINES, BREAK_IT = [text for language, text in BLOCKS if language == "sh"][:2]
OUTPUT = [text for language, text in BLOCKS if not language][1]


def run(script: str, directory: Path, bin_directory: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{bin_directory}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-e", "-c", script],  # noqa: S607 - the shell that is there
        cwd=directory,
        env={"PATH": path, "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_ten_lines_are_ten() -> None:
    assert len(TEN_LINES.splitlines()) == 10


def test_a_group_of_clauses_holds_with_the_ten_lines_and_fails_with_the_verb_that_looks_right(tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    done = run(f"{TEN_LINES.rstrip()} --only DS-LATEST --only DS-FRESH-01", tmp_path, here)
    assert done.returncode == 0, done.stderr
    assert "3 held" in done.stdout
    done = run(BREAK_IT, tmp_path, here)
    assert done.returncode == 1, done.stderr
    assert OUTPUT in done.stdout


@pytest.mark.prove
def test_from_an_empty_directory_with_only_the_wheel_the_ten_lines_end_with_grade_full(tmp_path: Path) -> None:
    wheels, empty, bin_directory = tmp_path / "wheels", tmp_path / "empty", tmp_path / "venv" / "bin"
    empty.mkdir()
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        f"-w{wheels}",
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    [wheel] = wheels.iterdir()
    subprocess.run([sys.executable, "-m", "venv", bin_directory.parent], check=True)
    subprocess.run([bin_directory / "pip", "install", "--quiet", f"{wheel}[cli,conformance]"], check=True)
    done = run(TEN_LINES, empty, bin_directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Grade full: each of the {len(CLAUSES)} clauses held" in done.stdout


@pytest.mark.parametrize("block", [text for language, text in BLOCKS if language in {"python", "lua", "toml"}])
def test_what_it_shows_of_the_example_is_there(block: str) -> None:
    assert block.rstrip() in EXAMPLE


def test_it_says_how_long_the_example_is() -> None:
    module = ROOT / "examples" / "redis_backend" / "durable_store_redis.py"
    assert f"{len(module.read_text().splitlines())} lines" in PAGE
    layout = [text for language, text in BLOCKS if not language][2]
    assert textwrap.indent(layout, "    ") in module.read_text()


def test_the_clauses_that_it_names_are_there() -> None:
    assert set(re.findall(r"DS-[A-Z]+-\d\d", PAGE)) <= {clause.id for clause in CLAUSES}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", PAGE))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
