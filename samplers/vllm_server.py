"""A fleet of vLLM servers as a sampler: token ids in, token ids out, over HTTP, on this machine or on others.

What a request gives does not depend on the server that answers it, as far as floats allow: prompts, seeds and order are kept,
greedy tokens are those of `vllm` and `hf`, log-probs within 2e-5 in float32. Bits are not claimed, since the composition of a
server's batches differs from run to run.
"""

import shutil
import socket
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rlkit.adapted import AdaptedWeights
from rlkit.errors import RolloutError
from rlkit.talks import Talk
from rlkit.types import Request, Rollout

from .contract import check_requests
from .fleet import Fleet
from .lives import Launch, Terms
from .servers import Address, GivenServer, gpus_of, log_folder, read_addresses, start_local
from .transfer import FileTransfer, GlooTransfer, Transfer
from .vllm_command import ServerSpec
from .weights import ModelFacts, fitting_adapters, fitting_weights, read_facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
TransferName = Literal["auto", "file", "gloo", "nccl", "ipc"]
REREAD_SECONDS = 2.0
"""Between two looks into a file of addresses, for servers that came later."""


class FleetWeights:
    """The current weights by every way that a server of this fleet has needed so far."""

    def __init__(self, model: str, wanted: TransferName, seconds: float, fresh: bool) -> None:
        """fresh: the servers start from a folder with exactly these weights"""
        self._model, self._wanted, self._seconds = model, wanted, seconds
        self._run = uuid.uuid4().hex[:8]
        self.fresh = fresh
        self.tag = self.tag_of(0)
        self._transfers: dict[str, Transfer] = {}
        self._file = FileTransfer()
        self._taken: Mapping[str, Tensor] | None = None

    def tag_of(self, version: int) -> str:
        """What a server calls weights: of this run, since another one may have used the server before."""
        return f"rlkit-{self._run}-{version}"

    def version_of(self, tag: str) -> int | None:
        """The version that a tag names; None: it is not of this run."""
        run, _, number = tag.rpartition("-")
        return int(number) if run == f"rlkit-{self._run}" and number.isdecimal() else None

    @property
    def probe(self) -> str:
        return str(self._file.probe)

    def take(self, weights: Mapping[str, Tensor], version: int) -> None:
        """New weights. They are kept as long as a server may ask for them."""
        self.tag, self.fresh = self.tag_of(version), False
        self._taken = weights
        for transfer in self._transfers.values():
            transfer.take(weights, self.tag)

    def kind_for(self, told: Mapping[str, Any], url: str) -> str:
        """What the server was started for decides, then whether it sees this machine's files."""
        backend = told["backend"]
        fits = {"rlkit": ("file", "gloo")}.get(backend, (backend,))
        if self._wanted == "auto":
            return ("file" if told["sees_probe"] else "gloo") if backend == "rlkit" else str(backend)
        if self._wanted not in fits:
            raise RolloutError(
                f"--sampler.transfer {self._wanted}: server {url} was started for {' or '.join(fits)}; start it with "
                f"`rlkit serve --transfer {self._wanted}`"
            )
        return self._wanted

    def needs_still(self, kind: str) -> bool:
        """What was taken is the learner's own until a way has a copy of it."""
        transfer = self._transfers.get(kind)
        copied = transfer is not None and transfer.keeps_copy
        return not copied and self._taken is not None

    def transfer_for(self, kind: str, told: Mapping[str, Any], url: str) -> Transfer:
        if kind not in self._transfers:
            transfer = self._make(kind, url, getattr(torch, told["dtype"]))
            if not self.fresh:
                transfer.take(
                    self._taken if self._taken is not None else folder_weights(self._model), self.tag
                )
            self._transfers[kind] = transfer
        return self._transfers[kind]

    def _make(self, kind: str, url: str, dtype: torch.dtype) -> Transfer:
        if kind == "file":
            self._file.dtype = dtype
            return self._file
        host = address_towards(url)
        if kind == "gloo":
            return GlooTransfer(dtype, host, self._seconds)
        from .vllm_senders import OfficialTransfer

        return OfficialTransfer(kind, dtype, host, self._seconds)

    def close(self) -> None:
        for transfer in {id(t): t for t in [*self._transfers.values(), self._file]}.values():
            transfer.close()


def folder_weights(model: str) -> Mapping[str, Tensor]:
    """The state dict of a model folder."""
    from transformers import AutoModelForCausalLM

    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    state: Mapping[str, Tensor] = loaded.state_dict()
    return state


def address_towards(url: str) -> str:
    """This machine's address on the way to a server: loopback for one on this machine."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), timeout=30) as probe:
        address: str = probe.getsockname()[0]
        return address


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How long a fleet waits (lives.py has the meanings), and by which way weights travel."""

    deadline: float = 600.0
    start_timeout: float = 600.0
    beat: float = 5.0
    beat_timeout: float = 30.0
    restarts: int = 5
    transfer: TransferName = "auto"
    overlap: bool = False
    in_flight: bool = False
    gpus: tuple[int, ...] = field(default=())


class Starter(Protocol):
    """Makes servers somewhere: children here, actors on a Ray cluster."""

    def launch(self, number: int) -> Launch: ...
    def close(self) -> None: ...


class LocalStarter:
    """Servers as children of this process, on its loopback."""

    def __init__(self, spec: ServerSpec, gpus: Sequence[int] = ()) -> None:
        self.spec, self._gpus = spec, gpus
        self._logs = log_folder()

    def launch(self, number: int) -> Launch:
        log = self._logs / f"server-{number}.log"
        mine = gpus_of(number, self._gpus, self.spec.tensor_parallel)
        return lambda: start_local(self.spec, log, gpus=mine)

    def close(self) -> None:
        shutil.rmtree(self._logs, ignore_errors=True)


class VllmServerSampler:
    """Independent vLLM servers behind one `sample`. `start` starts them; `connect` uses those that run."""

    def __init__(
        self,
        model: str | Path,
        spec: ServerSpec,
        *,
        stop_ids: Sequence[int] | None = None,
        version: int = 0,
        options: FleetOptions | None = None,
        fresh: bool,
        starter: Starter | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """model: the folder with the weights of `version`, as the learner has it
        fresh: servers start from that very folder;  starter: closed with the sampler
        """
        options = options or FleetOptions()
        self._facts: ModelFacts = read_facts(
            model, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        self._max_model_len = spec.max_model_len
        self._starter = starter
        self._weights = FleetWeights(str(model), options.transfer, options.deadline, fresh)
        self._weights.tag = self._weights.tag_of(version)
        terms = Terms(
            facts=self._facts,
            max_model_len=spec.max_model_len,
            deadline=options.deadline,
            start_timeout=options.start_timeout,
            beat=options.beat,
            beat_timeout=options.beat_timeout,
            restarts=options.restarts,
            overlap=options.overlap,
            in_flight=options.in_flight,
        )
        stops = self._facts.stop_ids if stop_ids is None else stop_ids
        self.fleet = Fleet(terms, self._weights, stops, say)
        self._shut = weakref.finalize(self, _shut, self.fleet, self._weights, starter)
        self._reader: _AddressReader | None = None

    @classmethod
    def start(
        cls,
        model: str | Path,
        spec: ServerSpec,
        replicas: int,
        *,
        starter: Starter | None = None,
        options: FleetOptions | None = None,
        fresh: bool = True,
        **more: Any,
    ) -> "VllmServerSampler":
        """Start `replicas` servers and wait until they are ready. starter: None starts children of this process
        fresh: `spec` names this very folder; otherwise the servers are given its weights
        """
        starter = starter or LocalStarter(spec, options.gpus if options else ())
        sampler = cls(model, spec, options=options, fresh=fresh, starter=starter, **more)
        with sampler._closed_on_failure():
            for number in range(replicas):
                sampler.fleet.add(f"server {number + 1} of {replicas}", starter.launch(number))
            sampler.fleet.wait_ready(replicas)
        return sampler

    @classmethod
    def connect(
        cls,
        model: str | Path,
        spec: ServerSpec,
        urls: str,
        *,
        key: str = "",
        options: FleetOptions | None = None,
        **more: Any,
    ) -> "VllmServerSampler":
        """Use servers that run: addresses, or @FILE, which is read again for new ones. They get the weights of `model`."""
        sampler = cls(model, spec, options=options, fresh=False, **more)
        with sampler._closed_on_failure():
            sampler._reader = _AddressReader(sampler.fleet, urls, key)
            sampler.fleet.wait_ready(max(1, len(sampler._reader.known)))
        return sampler

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """`n` rollouts for each request, in order. Raises RolloutError for a request that does not fit the model, SamplerGone
        when no server is left."""
        check_requests(requests, self._max_model_len, self._facts.vocab_size)
        return self.fleet.sample(requests)

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        """What each talk returns; a prompt goes on as soon as its own answers are there (rlkit/talks.py)."""
        return self.fleet.follow(
            talks, lambda requests: check_requests(requests, self._max_model_len, self._facts.vocab_size)
        )

    def submit(self, request: Request) -> "Future[list[Rollout]]":
        """One request's rollouts, as soon as they are written, beside whatever else is asked."""
        check_requests([request], self._max_model_len, self._facts.vocab_size)
        return self.fleet.submit(request)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """New weights into every server, and empty prefix caches. A server that fails on the way is lost and gets them when it
        is back; a set of weights that does not fit raises RolloutError before anything is sent."""
        full: Mapping[str, Tensor]
        if isinstance(weights, AdaptedWeights):
            full = fitting_adapters(weights, self._facts)
        else:
            full = fitting_weights(weights, self._facts)
        self.fleet.load(lambda: self._weights.take(full, version))

    def rest(self) -> None:
        """The servers have devices of their own."""

    def forget(self) -> None:
        """Empty every server's prefix cache."""
        self.fleet.forget()

    def halt(self) -> None:
        """Requests under way are dropped, and their `sample` raises RolloutError."""
        self.fleet.halt()

    def metrics(self) -> dict[str, float]:
        """`sampler/...` since the last call."""
        return self.fleet.metrics()

    def close(self) -> None:
        """End the servers that this sampler started."""
        if self._reader is not None:
            self._reader.stop()
        self._shut()

    def _closed_on_failure(self) -> "_ClosedOnFailure":
        return _ClosedOnFailure(self)


class _ClosedOnFailure:
    def __init__(self, sampler: VllmServerSampler) -> None:
        self._sampler = sampler

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._sampler.close()


class _AddressReader:
    """Names new servers to a fleet as they appear in a file."""

    def __init__(self, fleet: Fleet, urls: str, key: str) -> None:
        self._fleet, self._urls, self._key = fleet, urls, key
        self.known: set[Address] = set()
        self._end = threading.Event()
        self._look()
        if urls.startswith("@"):
            threading.Thread(target=self._run, name="rlkit-addresses", daemon=True).start()

    def stop(self) -> None:
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(REREAD_SECONDS):
            self._look()

    def _look(self) -> None:
        for address in read_addresses(self._urls):
            if address not in self.known:  # a server that was started again with another key is new too
                self.known.add(address)
                server = partial(GivenServer, address.url, address.key or self._key)
                self._fleet.add(f"server {len(self.known)}", server)


def _shut(fleet: Fleet, weights: FleetWeights, starter: Starter | None) -> None:
    fleet.close()
    weights.close()
    if starter is not None:
        starter.close()
