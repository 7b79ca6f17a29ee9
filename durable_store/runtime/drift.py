"""What changed between the process that began and the one that goes on."""

import warnings
from typing import Any, Literal, cast

from durable_store.errors import DurableStoreError, shown
from durable_store.state import same_json

OnDrift = Literal["warn", "raise"]


class Drifted(DurableStoreError, UserWarning):
    """What goes on is not quite what was begun: another model, prompt or tool list; another state for a child.

    Or other arguments for an effect.
    """


def tell(what: str, on_drift: OnDrift) -> None:
    """Warns of it, or raises it."""
    if on_drift == "raise":
        raise Drifted(what)
    warnings.warn(Drifted(what), stacklevel=2)


def difference(before: Any, now: Any) -> str:
    """What differs between two fingerprints, by name where both have names; empty where they are the same."""
    if same_json(before, now):
        return ""
    names = [cast("dict[str, Any]", each) for each in (before, now) if isinstance(each, dict)]
    if len(names) < 2:
        return f"it was {shown(before)} and is {shown(now)}"
    old, new = names
    return ", ".join(
        f"{name} was {shown(old[name]) if name in old else 'absent'}"
        f" and is {shown(new[name]) if name in new else 'absent'}"
        for name in {**old, **new}
        if (name in old) != (name in new) or not same_json(old[name], new[name])
    )
