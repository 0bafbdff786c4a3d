"""Which server gets which request: the one with the fewest tokens still to write, and the same one for the same prompt.

Pure bookkeeping: no network, no clock. A part is some continuations of one request; they stay together, since they share a
prompt that a server reads once (prefix cache).
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)

REMEMBERED = 4096
"""Prompts whose server is remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Continuations `indices` of one request.

    key: equal for equal prompts;  tokens: what they cost at most, the prompt once and max_tokens for each
    """

    key: Hashable
    indices: tuple[int, ...]
    prompt_tokens: int
    tokens: int


def parts_of(
    key: Hashable, prompt_tokens: int, max_tokens: int, indices: Sequence[int], size: int
) -> list[Part]:
    """Continuations in parts of at most `size`.

    >>> [part.indices for part in parts_of("a", 10, 4, range(5), 2)]
    [(0, 1), (2, 3), (4,)]
    """
    cut = [tuple(indices[i : i + size]) for i in range(0, len(indices), size)]
    return [Part(key, piece, prompt_tokens, prompt_tokens + len(piece) * max_tokens) for piece in cut]


def part_size(sequences: int, servers: int, capacity: int) -> int:
    """Continuations of one prompt that stay on one server: all of them, unless other servers would be idle.

    >>> part_size(256, 2, 64), part_size(64, 8, 64), part_size(3, 8, 64)
    (64, 8, 1)
    """
    return max(1, min(capacity, -(-sequences // max(1, servers))))


@dataclass(slots=True)
class _Load:
    capacity: int
    tokens: int = 0
    sequences: int = 0


@dataclass(slots=True)
class Balance(Generic[S]):
    """Servers with what each has still to do, and who waits for one.

    >>> balance = Balance[str]()
    >>> balance.add("left", capacity=8); balance.add("right", capacity=8)
    >>> a, b = Part("a", (0, 1), 10, 30), Part("b", (0, 1), 10, 20)
    >>> balance.choose(a), balance.choose(b), balance.choose(Part("a", (2,), 10, 20))
    ('left', 'right', 'left')
    >>> balance.done("left", a); balance.tokens("left")
    20
    """

    _loads: dict[S, _Load] = field(default_factory=dict)
    _knows: dict[Hashable, S] = field(default_factory=dict)

    def add(self, server: S, capacity: int) -> None:
        """A server that may be used from now on. capacity: sequences it writes at once."""
        self._loads[server] = _Load(capacity)

    def remove(self, server: S) -> None:
        """A server that is gone, and all that it had to do with it."""
        self._loads.pop(server, None)
        self._knows = {key: other for key, other in self._knows.items() if other != server}

    def forget(self) -> None:
        """Prompts are cached nowhere any more (new weights)."""
        self._knows.clear()

    def __len__(self) -> int:
        return len(self._loads)

    def __iter__(self) -> Iterator[S]:
        return iter(self._loads)

    def tokens(self, server: S) -> int:
        return self._loads[server].tokens

    def choose(self, part: Part, avoid: Collection[S] = ()) -> S | None:
        """The server for a part, which counts as its work from now on; None: all are full.

        avoid: servers that failed this part before; taken only when there is no other
        """
        known = [s for s in self._loads if s not in avoid] or list(self._loads)
        free = [s for s in known if self._fits(self._loads[s], part)]
        if not free:
            return None
        chosen = min(free, key=lambda s: self._loads[s].tokens)
        home = self._knows.get(part.key)
        if home is not None and home in free and self._may_stay(home, chosen, part):
            chosen = home
        load = self._loads[chosen]
        load.tokens += part.tokens
        load.sequences += len(part.indices)
        self._knows.pop(part.key, None)
        self._knows[part.key] = chosen  # the youngest is last
        if len(self._knows) > REMEMBERED:
            del self._knows[next(iter(self._knows))]
        return chosen

    def done(self, server: S, part: Part) -> None:
        """A part is finished, or failed."""
        load = self._loads.get(server)
        if load is not None:
            load.tokens -= part.tokens
            load.sequences -= len(part.indices)

    def _fits(self, load: _Load, part: Part) -> bool:
        return load.sequences == 0 or load.sequences + len(part.indices) <= load.capacity

    def _may_stay(self, home: S, least: S, part: Part) -> bool:
        """Whether it is sooner done at home: another would read the prompt first."""
        return self._loads[home].tokens - self._loads[least].tokens <= part.prompt_tokens
