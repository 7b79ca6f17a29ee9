"""What an operator does with a whole store: copying it into another one, finding what is wrong in it."""

from durable_store.operations.copying import Copied, Tally, copy

__all__ = ["Copied", "Tally", "copy"]
