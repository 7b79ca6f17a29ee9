"""Checkpoints under a stable triple key: a killed run goes on in a fresh process, from its last committed step."""

from durable_store.backend import Backend
from durable_store.episode import Episode
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointNotFound,
    CheckpointUnsupported,
    DurableStoreError,
    InvalidArgument,
    InvalidKey,
    InvalidState,
    InvalidURL,
    StoreUnavailable,
)
from durable_store.key import CheckpointKey
from durable_store.record import Checkpoint, CheckpointInfo
from durable_store.run import Run
from durable_store.store import Store, open_store

__all__ = [
    "Backend",
    "Checkpoint",
    "CheckpointConflict",
    "CheckpointDamaged",
    "CheckpointInfo",
    "CheckpointKey",
    "CheckpointNotFound",
    "CheckpointUnsupported",
    "DurableStoreError",
    "Episode",
    "InvalidArgument",
    "InvalidKey",
    "InvalidState",
    "InvalidURL",
    "Run",
    "Store",
    "StoreUnavailable",
    "open_store",
]
