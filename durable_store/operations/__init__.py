"""What an operator does with a whole store: copying it into another one, finding what is wrong in it."""

from durable_store.operations.copying import Copied, Tally, copy
from durable_store.operations.verifying import ADVICE, Finding, Verified, verify

__all__ = ["ADVICE", "Copied", "Finding", "Tally", "Verified", "copy", "verify"]
