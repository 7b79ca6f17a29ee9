"""The environment of the benchmark, and the processes in it."""

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".bench"
PYTHON = PLACE / "venv" / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def prepare() -> list[str]:
    """Makes the environment, if it is not there as it should be; returns the names of what is pinned there, and ours.

    This project is installed there too, as its users have it, from this directory.
    """
    pinned = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ready = PLACE / "ready"
    entry_points = json.dumps(project["entry-points"])
    wanted = "\n".join([sys.version, str(ROOT), entry_points, *project["dependencies"], *pinned])
    if not ready.exists() or ready.read_text() != wanted:
        print("makes .bench/venv …", flush=True)
        venv.create(PLACE / "venv", with_pip=True, clear=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *pinned, "--editable", f"{ROOT}[s3]"], check=True)
        ready.write_text(wanted)
    return [*(line.partition("==")[0] for line in pinned), "durable-store", "orjson", "apsw", "boto3", *_zstd()]


def _zstd() -> list[str]:
    return ["backports.zstd"] if sys.version_info < (3, 14) else []


def run_child(python: Path, spec: Mapping[str, Any], before: Sequence[str] = ()) -> dict[str, Any]:
    """What a child process says that does this. `before` is what starts it, strace for one.

    Raises:
        subprocess.CalledProcessError: it failed; what it said of that went to stderr.
    """
    path = os.pathsep.join(map(str, (ROOT, ROOT / "backends")))
    # PYTHONHASHSEED: the same dicts and sets in each round.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled; ours is, once it was imported
    command = [*before, str(python), "-P", "-m", "benchmarks.bench.child", json.dumps(spec)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
