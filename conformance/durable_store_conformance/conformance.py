"""The exam as a class for pytest."""

import pytest

from durable_store_conformance.exam import CASES, Case, examine


class StoreConformance:
    """What a backend promises, and what Store and Run promise on top of it. Inherit it and override `url`.

    All the rest is the exam, and a class that would replace a part of it is refused: `test_clause = None` or a weaker
    one would shrink the exam, and nobody would see it.
    """

    def __init_subclass__(cls) -> None:
        """Refuses a class in which something hides a part of the exam."""
        super().__init_subclass__()
        exam = {name for name in vars(StoreConformance) if not name.startswith("__")} - {"url"}
        for owner in cls.__mro__[: cls.__mro__.index(StoreConformance)]:
            hidden = sorted(exam.intersection(vars(owner)))
            if hidden:
                raise TypeError(
                    f"{owner.__name__}.{hidden[0]} would replace the one of StoreConformance: the clauses of the"
                    " conformance suite can be added to, and not left out or replaced; override `url` only"
                )

    @pytest.fixture
    def url(self) -> str:
        """A URL that another process can open, of a store that nobody has written to."""
        raise NotImplementedError("override the fixture `url` of StoreConformance")

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_clause(self, case: Case, url: str) -> None:
        """The promise of the clause holds on this backend."""
        __tracebackhide__ = True
        examine(case, url)
