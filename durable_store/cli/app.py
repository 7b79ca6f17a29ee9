"""The commands in one program, and the way from an error to one line and an exit status."""

import errno
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import typer

from durable_store.cli.change import fork, prune, rewind, rm
from durable_store.cli.compare import diff
from durable_store.cli.conformance import conformance
from durable_store.cli.demo import demo
from durable_store.cli.goals import episodes, stats
from durable_store.cli.look import history, ls, show
from durable_store.cli.operate import copy, verify
from durable_store.cli.output import Failure, give_up, printable, say
from durable_store.errors import DurableStoreError, InvalidArgument

# Typer's usage error has no name of its own there: it was click's, and became part of typer in 0.26.
_USAGE_ERROR = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
# What a shell reports for a program that SIGPIPE ended, as every other program behind `| head` is.
_PIPE_CLOSED = 141
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
for command, example in (
    (demo, "durable-store demo --kills 5 --turns 60"),
    (ls, "durable-store ls sqlite:///runs.db"),
    (history, "durable-store history sqlite:///runs.db PROJ-1/0/orchestrator-0"),
    (show, "durable-store show sqlite:///runs.db PROJ-1/0/orchestrator-0 --step 12 --json"),
    (copy, "durable-store copy sqlite:///runs.db s3://bucket/runs --verify"),
    (verify, "durable-store verify sqlite:///runs.db"),
    (diff, "durable-store diff sqlite:///runs.db PROJ-1/0/orchestrator-0 11 12"),
    (rewind, "durable-store rewind sqlite:///runs.db PROJ-1/0/orchestrator-0 --to 11"),
    (fork, "durable-store fork sqlite:///runs.db PROJ-1/0/orchestrator-0 PROJ-1/1/orchestrator-0 --step 11"),
    (prune, "durable-store prune sqlite:///runs.db --keep 1 --finished --older-than 7d"),
    (rm, "durable-store rm sqlite:///runs.db PROJ-1 --episode 0"),
    (episodes, "durable-store episodes sqlite:///runs.db PROJ-1"),
    (stats, "durable-store stats sqlite:///runs.db"),
    (conformance, "durable-store conformance sqlite:///exam.db --only DS-SAVE"),
):
    app.command(epilog=f"Example: {example}")(command)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        typer.echo(f"durable-store {version('durable-store')}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="A store's URL is sqlite:///runs.db, file:///directory, or the path of a directory. Exit status: 0 done,"
    " 1 failed, 2 misused.\n\nExample: durable-store demo",
)
def _program(
    context: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Checkpoints of long-lived agents.

    See a killed run go on, and look into a store.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(args: list[str]) -> int:
    """Runs one command. Whatever goes wrong is one line on stderr, without a traceback unless it is our own mistake."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # whoever started this has closed it, as `>&-` does
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as it runs
        # An id can hold what the terminal's encoding cannot.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        return _run(args)
    except OSError as err:
        return _unprinted(err) if _is_lost(err) else _say(str(err), 1)
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except _USAGE_ERROR as err:
        asked = err.ctx.command_path if err.ctx else "durable-store"
        return _say(f"{err.format_message().rstrip('.')}: see {asked} --help", 2)
    except InvalidArgument as err:
        return _say(str(err), 2)
    except (DurableStoreError, Failure) as err:
        return _say(str(err), 1)


def _run(args: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("durable-store", args) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    finally:
        sys.stdout.flush()
    return 0


def _is_lost(err: OSError) -> bool:
    """Whether what was printed cannot be written: nobody reads it any more, or there is no room for it."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)
        return True
    # An unbuffered stdout has nothing left to write. An error of `write` names no file.
    return isinstance(err, BrokenPipeError) or (err.filename is None and err.errno in _UNWRITABLE)


def _unprinted(err: OSError) -> int:
    """What had gone wrong before nobody could read it counts for more."""
    before = err.__context__
    while isinstance(before, OSError):
        before = before.__context__
    if isinstance(before, (DurableStoreError, Failure)):
        return _say(str(before), 1)
    if isinstance(err, BrokenPipeError):
        return _PIPE_CLOSED
    return _say(f"what it prints could not be written: {err.strerror}", 1)


def _say(message: str, status: int) -> int:
    say(f"durable-store: {printable(message)}")
    return status
