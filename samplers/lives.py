"""What a fleet knows of its servers: what one is, how one is started, its life from ready to lost, and what is asked of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .transfer import Transfer
from .weights import ModelFacts
from .worker_http import HttpWorker, WeightCalls


class Server(Protocol):
    """One server, wherever it runs. Its methods may block."""

    @property
    def url(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ours(self) -> bool:
        """Whether this run started it, and so ends it and starts it again."""
        ...

    def alive(self) -> bool:
        """Whether its process is there; quick."""
        ...

    def last_words(self) -> str:
        """What it printed at the end; empty when nobody knows."""
        ...

    def kill(self) -> None: ...


Launch = Callable[[], Server]
"""Starts a server, or names one that runs already; may block, returns before the server answers."""


@dataclass(eq=False, slots=True)
class Life:
    """A server from the moment it is ready until it is lost; the next one is another life."""

    member: "Member"
    server: Server
    worker: HttpWorker
    weight_calls: WeightCalls
    capacity: int
    world_size: int
    transfer: Transfer
    lost: asyncio.Event
    tag: str
    """Of the weights in it."""
    why: str = ""
    strikes: int = 0
    calls: set["asyncio.Task[Any]"] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Member:
    """A place in the fleet: one server after another."""

    name: str
    launch: Launch
    state: Literal["starting", "ready", "lost", "given up"] = "starting"
    failures: int = 0
    """Starts in a row that ended without an answered request."""
    why: str = ""
    """What became of the last server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a fleet asks of its servers, and how long it waits. Seconds."""

    facts: ModelFacts
    max_model_len: int
    deadline: float = 600.0
    start_timeout: float = 600.0
    beat: float = 5.0
    """Between two questions whether a server still answers."""
    beat_timeout: float = 30.0
    """For the answer; then the server is frozen."""
    restarts: int = 5
    overlap: bool = False
    """Whether the learner's weights move while requests are answered: then it is still only in an update of the servers."""
    in_flight: bool = False
    """Whether servers get new weights while requests are answered: then one answer may be of several versions."""


class Weights(Protocol):
    """The current weights, in all the ways in which this fleet's servers can get them."""

    tag: str

    def version_of(self, tag: str) -> int | None:
        """The version that a tag names; None: it is not of this run."""
        ...

    def kind_for(self, told: Mapping[str, Any], url: str) -> str:
        """By which way a server gets them. Raises RolloutError when it was started for another."""
        ...

    def needs_still(self, kind: str) -> bool:
        """Whether that way reads the learner's own tensors, which must not move meanwhile."""
        ...

    def transfer_for(self, kind: str, told: Mapping[str, Any], url: str) -> Transfer:
        """That way, with the current weights in it; may take long."""
        ...

    @property
    def probe(self) -> str:
        """A file that exists on this host only."""
        ...

    @property
    def fresh(self) -> bool:
        """Servers that this run starts have these weights from their folder."""
        ...
