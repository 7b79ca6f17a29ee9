"""The `durable-store` command. What it needs, typer and rich, is the extra `cli` and loaded when it is called."""

import sys


def main() -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C."""
    try:
        from durable_store.cli import app  # noqa: PLC0415 - an optional library is imported where it is used
    except ModuleNotFoundError as err:
        library = (err.name or "").partition(".")[0]
        if library not in {"click", "jsonpatch", "jsonpointer", "rich", "typer"}:
            raise
        sys.stderr.write(f"durable-store: the command needs {library}: pip install 'durable-store[cli]'\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return app.run(sys.argv[1:])
