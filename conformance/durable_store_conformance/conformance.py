"""The whole exam: every group of clauses in one class, and no way to sit a smaller one."""

from durable_store_conformance.damage import DamageClauses
from durable_store_conformance.fences import FenceClauses
from durable_store_conformance.fresh import FreshProcessClauses
from durable_store_conformance.ids import IdClauses
from durable_store_conformance.runs import RunClauses
from durable_store_conformance.sharing import SharingClauses
from durable_store_conformance.stores import StoreClauses
from durable_store_conformance.verbs import VerbClauses


class StoreConformance(
    VerbClauses,
    IdClauses,
    SharingClauses,
    StoreClauses,
    RunClauses,
    FenceClauses,
    DamageClauses,
    FreshProcessClauses,
):
    """What a backend promises, and what Store and Run promise on top of it. Inherit it and override `url`."""
