"""Broken backends, which the conformance suite must find out: `mutant://NAME/path`.

`installed/` is the metadata of a package that is not there: with it on its path, a process that can import this one
finds the entry point `mutant`.
"""

from pathlib import Path
from urllib.parse import SplitResult, unquote

import pytest

from durable_store import DurableStoreError
from durable_store.backend import Backend
from tests.mutants import kills, names, records, sharing, steps
from tests.mutants.mutant import GOOD, Mutant, mutants_in

__all__ = ["BROKEN", "GOOD", "INSTALLED", "MUTANTS", "Mutant", "Mutants"]

MUTANTS = {mutant.name: mutant for mutant in mutants_in(records, steps, names, kills, sharing)}
"""By their names, in the order of their modules."""

BROKEN = (AssertionError, DurableStoreError, pytest.fail.Exception)
"""How a clause ends that finds a promise broken; the last is what pytest.raises says. Anything else is no verdict."""

INSTALLED = str(Path(__file__).parent / "installed")
"""What goes on the path, and for other processes into PYTHONPATH."""


class Mutants:
    """The entry point."""

    @classmethod
    def from_url(cls, url: SplitResult) -> Backend:
        make = GOOD[url.netloc] if url.netloc in GOOD else MUTANTS[url.netloc].make
        return make(unquote(url.path))
