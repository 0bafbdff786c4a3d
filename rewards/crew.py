"""The thread that runs a pool: hands answers to processes, hears verdicts, watches clocks, replaces what dies.

One loop over non-blocking sockets, so nothing that a process does or leaves undone holds it up.

Who is to blame when a process is lost: of answers judged one at a time the first without a verdict, and the others have
not begun. Of several judged at once (async, batch) it cannot be known: each is judged again alone.
"""

import os
import selectors
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from rlkit.errors import RolloutError
from rlkit.types import AnyVerifier, Score

from .contract import batch_size, concurrency, describe, is_async, verifier_name
from .desk import Call, Desk
from .keeper import Errand
from .messages import CannotSend, answer_in, ending, packed, said
from .output import Output
from .slot import END_SECONDS, Flight, Slot, Terms
from .tally import Tally
from .wire import Wire
from .worker import Rules

MAX_FAILED_STARTS = 3
"""Processes in a row that may die before they judge anything."""
_AHEAD_SECONDS, _MAX_AHEAD = 0.002, 32
"""A judge is sent so much work in advance: enough to hide the way there and back, too little to be missed elsewhere."""
_GRACE_SECONDS = 1.0
"""For an async judge to cancel what is overdue by itself."""
_SILENT_SECONDS = 1.0
"""Between the end of a judge's connection and its keeper's word that it has died; then it is killed."""
_NO_VERDICT = "the verifier process sent what is no verdict; it was replaced"


class Crew:
    """The processes of one pool and the thread that drives them, from the first answer until `stop`."""

    def __init__(
        self, verifier: AnyVerifier, pickled: bytes, script: str | None, terms: Terms, tally: Tally
    ) -> None:
        self.owner = os.getpid()
        self.slots: list[Slot] = []
        self._name = f"the verifier {verifier_name(verifier)}"
        self._terms, self._tally = terms, tally
        self._at_once = concurrency(verifier) if is_async(verifier) else 0  # 0: one after the other
        self._batch = batch_size(verifier)
        self._folder = tempfile.mkdtemp(prefix="rlkit-verifiers-")
        rules = Rules(folder="", timeout=terms.timeout, memory_limit=terms.memory_limit)
        self._errand = Errand(pickled=pickled, script=script, preload=True, rules=rules)
        self._failed_starts = self._tickets = self._folders = 0
        self._stopping = self._early = False
        self._desk, self._output = Desk(), Output(self._name)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._desk.alarm, selectors.EVENT_READ, lambda events: self._desk.woken())
        self._selector.register(self._output.fd, selectors.EVENT_READ, self._output.pump)
        self._thread = threading.Thread(target=self._run, name="verifier-pool", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def begin(self) -> None:
        """Start all processes and load the verifier in each, before there is an answer."""
        self._early = True
        self._desk.wake()

    def open(self, call: Call) -> None:
        """Judge the answers of this call, those that it gets later too."""
        self._desk.open(call)
        if not self.alive:  # it has stopped in between, and may not have seen the call
            self._desk.fail(RolloutError("the verifier pool was closed while it was judging"))

    def added(self) -> None:
        """More answers wait in some call."""
        self._desk.added()

    def left(self, call: Call) -> None:
        """The caller has all it wanted."""
        call.dropped = True
        self._desk.wake()

    def stop(self) -> None:
        """End all processes and remove their folder; calls that wait get an error. In a fork of the owner: nothing."""
        if os.getpid() != self.owner:
            return
        self._stopping = True
        self._desk.wake()
        if (
            threading.current_thread() is not self._thread
        ):  # a collection of garbage may call this from anywhere
            self._thread.join()

    def forget(self) -> None:
        """In a fork: close the copies of what belongs to the owner."""
        for slot in self.slots:
            slot.control.sock.close()
            if slot.judge is not None:
                slot.judge.sock.close()

    # From here on everything runs in the thread.

    def _run(self) -> None:
        error = RolloutError("the verifier pool was closed while it was judging")
        try:
            while not self._stopping:
                self._turn()
        except (
            BaseException
        ) as fault:  # a fault of the pool itself: whoever waits gets a sentence, and no verdict
            error = RolloutError(f"the verifier pool failed: {describe(fault)}; this is a fault of rlkit")
            error.__cause__ = fault
        finally:
            self._stopping = True
            self._desk.fail(error)
            self._clean_up()

    def _turn(self) -> None:
        if self._desk.take_in():
            self._stop_what_nobody_wants()
        self._staff()
        self._hand_out()
        for key, events in self._selector.select(self._patience()):
            key.data(events)
        self._watch_clocks()
        self._desk.deliver()

    def _stop_what_nobody_wants(self) -> None:
        for slot in self.slots:
            if slot.flights and all(asked.call.dropped for f in slot.flights for asked in f.asked):
                slot.flights.clear()
                slot.end("dropped")

    # Processes come.

    def _staff(self) -> None:
        """A process for each answer, up to the pool's size; once, when told to begin, all of them."""
        waiting = self._desk.num_waiting()
        busy = sum(bool(slot.flights) for slot in self.slots)
        wanted = min(self._terms.workers, waiting + busy) if waiting else 0
        if self._early:  # once: a verifier that does not load is told to whoever brings an answer
            self._early, wanted = False, self._terms.workers
        while len(self.slots) < wanted:
            if self._hopeless():
                return
            self._add_slot()
        for slot in self.slots:
            if waiting and slot.state == "resting":
                if self._hopeless():
                    return
                self._selector.register(
                    slot.fork(),
                    selectors.EVENT_READ,
                    lambda events, slot=slot: self._hear_judge(slot, events),
                )

    def _add_slot(self) -> None:
        self._folders += 1
        folder = os.path.join(self._folder, str(self._folders))
        os.mkdir(folder)
        errand = replace(self._errand, rules=replace(self._errand.rules, folder=folder))
        slot = Slot(errand, self._output.sink)
        self.slots.append(slot)
        self._selector.register(
            slot.control, selectors.EVENT_READ, lambda events, slot=slot: self._hear_keeper(slot, events)
        )
        self._watch_backlog(slot)

    def _hopeless(self) -> bool:
        """Whether processes die again and again before they judge; then the calls have been told."""
        if self._failed_starts < MAX_FAILED_STARTS:
            return False
        self._fail(
            f"{self._failed_starts} verifier processes in a row died before they could judge anything; "
            f"does {self._name} import here, and is there memory left? reward.workers = 0 shows its fault"
        )
        self._failed_starts = 0
        return True

    def _fail(self, sentence: str) -> None:
        """No process can judge: every call ends with this sentence."""
        self._desk.fail(RolloutError(sentence))
        for slot in self.slots:
            if slot.flights:
                slot.flights.clear()
                slot.end("dropped")

    # Answers go out.

    def _hand_out(self) -> None:
        while True:
            free = (slot for slot in self.slots if self._has_room(slot))
            slot = min(free, key=lambda slot: len(slot.flights), default=None)
            asked = self._desk.next(self._batch, with_others=bool(self._at_once and slot and slot.flights))
            if slot is None or not asked:
                self._desk.ask_again(asked, alone=False)
                return
            try:
                payload = packed([(one.prompt, one.text) for one in asked])
            except CannotSend as error:
                if len(asked) > 1:
                    self._desk.ask_again(asked, alone=True)
                    continue
                self._desk.verdict(asked[0], Score(None, reason=str(error), error=True))
                self._tally.errors += 1
                continue
            now = time.monotonic()
            for one in asked:
                self._tally.queued(now - one.since)
            self._tickets += 1
            slot.send(
                self._tickets, asked, payload, self._terms.timeout + (_GRACE_SECONDS if self._at_once else 0)
            )
            self._watch_backlog(slot)

    def _has_room(self, slot: Slot) -> bool:
        if slot.state != "ready" or slot.judge is None or slot.judge.backlog:
            return False
        if slot.taken >= self._terms.recycle_after:
            return False
        if self._at_once:
            return len(slot.flights) < self._at_once and not any(f.asked[0].alone for f in slot.flights)
        ahead = 1 if slot.pace is None else int(_AHEAD_SECONDS / max(slot.pace, 1e-6))
        return len(slot.flights) < max(1, min(_MAX_AHEAD, ahead))

    def _watch_backlog(self, slot: Slot) -> None:
        """Be told when a socket takes more, for as long as there is more."""
        for wire in (slot.control, slot.judge):
            if wire is not None and self._watched(wire):
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.backlog else 0)
                key = self._selector.get_key(wire)
                if key.events != events:
                    self._selector.modify(wire, events, key.data)

    # Words come back.

    def _hear_keeper(self, slot: Slot, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            slot.control.flush()
            self._watch_backlog(slot)
        for message in slot.control.receive():
            word = said(message)
            if "ready" in word:
                slot.state = "resting"
            elif "ended" in word:
                self._judge_ended(slot, word["ended"])
            elif "threads" in word:  # a fork does not copy threads: each judge loads its own verifier
                self._errand = replace(self._errand, preload=False)
                self._discard(slot)
                return
            else:
                self._cannot_load(slot, word)
                return
        if slot.control.ended:
            self._keeper_died(slot)

    def _hear_judge(self, slot: Slot, events: int) -> None:
        judge = slot.judge
        if judge is None:
            return
        if events & selectors.EVENT_WRITE:
            judge.flush()
            self._watch_backlog(slot)
        self._take_words(slot)
        if judge.ended and slot.judge is judge and self._watched(judge):
            self._selector.unregister(judge)
            if slot.state in ("opening", "ready"):  # its keeper will say how it died
                slot.state, slot.deadline = "silent", time.monotonic() + _SILENT_SECONDS

    def _take_words(self, slot: Slot) -> None:
        """What the judge has said since."""
        for message in slot.judge.receive() if slot.judge is not None else ():
            if slot.state == "opening":
                self._greet(slot, said(message))
            elif slot.flights and not self._answered(slot, said(message)):
                self._lost(slot, _NO_VERDICT)
                slot.end("garbage")
        if slot.judge is not None and slot.judge.broken and slot.flights:
            self._lost(slot, _NO_VERDICT)
            slot.end("garbage")

    def _greet(self, slot: Slot, word: dict[str, object]) -> None:
        pid = word.get("ready")
        if isinstance(pid, int):
            slot.state, slot.pid = "ready", pid
        else:
            self._cannot_load(slot, word)

    def _cannot_load(self, slot: Slot, word: dict[str, object]) -> None:
        self._discard(slot)
        self._fail(f"{self._name} cannot be loaded in a verifier process: {word.get('failed')}")

    def _answered(self, slot: Slot, word: dict[str, object]) -> bool:
        """Take the verdicts of one flight; False: it is none that was asked for."""
        found = [f for f in slot.flights if f.ticket == word.get("ticket")]
        if not found or (not self._at_once and found[0] is not slot.flights[0]):
            return False
        flight = found[0]
        answer = answer_in(word, len(flight.asked), self._terms.timeout)
        if answer is None:
            return False
        self._landed(slot, flight)
        if answer.failed and len(flight.asked) > 1:
            self._desk.ask_again(flight.asked, alone=True)
        else:
            self._tally.timeouts += answer.timed_out
            self._tally.errors += 0 if answer.timed_out else sum(score.error for score in answer.scores)
            for asked, score in zip(flight.asked, answer.scores, strict=True):
                self._desk.verdict(asked, score)
        slot.worn = slot.worn or answer.worn or slot.taken >= self._terms.recycle_after
        if slot.worn and not slot.flights and slot.state == "ready":
            slot.end("recycled")
        return True

    def _landed(self, slot: Slot, flight: Flight) -> None:
        now = time.monotonic()
        slot.flights.remove(flight)
        seconds = now - flight.begun
        self._tally.judged(seconds, len(flight.asked))
        slot.pace = seconds if slot.pace is None else 0.9 * slot.pace + 0.1 * seconds
        self._failed_starts = 0
        if slot.flights and not self._at_once:
            slot.flights[0].begin(now)

    # Processes go.

    def _lost(self, slot: Slot, reason: str, timeout: bool = False) -> None:
        """The process of these flights is gone, or will be: blame one, or judge each again alone."""
        flights, slot.flights = list(slot.flights), deque()
        suspects = flights if self._at_once else flights[:1]
        certain = len(suspects) == 1 and len(suspects[0].asked) == 1
        for flight in reversed(flights):
            if not certain or flight not in suspects:
                self._desk.ask_again(flight.asked, alone=flight in suspects)
        if certain:
            self._desk.verdict(suspects[0].asked[0], Score(None, reason=reason, error=True))
            self._tally.timeouts += timeout
            self._tally.crashes += not timeout

    def _patience(self) -> float | None:
        """Seconds until the next clock runs out; None: none is running."""
        clocks = [slot.deadline for slot in self.slots if slot.state not in ("resting", "ready")]
        clocks += [flight.deadline for slot in self.slots for flight in self._timed(slot)]
        return max(0.0, min(clocks) - time.monotonic()) if clocks else None

    def _timed(self, slot: Slot) -> Sequence[Flight]:
        """The flights whose clock is running."""
        if slot.state != "ready" or not slot.flights:
            return ()
        return slot.flights if self._at_once else (slot.flights[0],)

    def _watch_clocks(self) -> None:
        now = time.monotonic()
        for slot in list(self.slots):
            if any(now >= flight.deadline for flight in self._timed(slot)):
                self._take_words(slot)  # a verdict may have come just now
                if any(now >= flight.deadline for flight in self._timed(slot)):
                    self._lost(
                        slot,
                        f"timed out after {self._terms.timeout:g} s; its process was killed",
                        timeout=True,
                    )
                    slot.end("overdue")
            elif slot.state in ("resting", "ready") or now < slot.deadline:
                continue
            elif slot.state == "silent":
                slot.end("silent")
            elif slot.state == "ending":
                self._keeper_died(slot)
            else:
                self._failed_starts += 1
                self._discard(slot)

    def _judge_ended(self, slot: Slot, code: object) -> None:
        """The keeper's word, once for each judge."""
        judge = slot.judge
        self._tally.restarts += 1
        self._take_words(slot)  # verdicts that it sent before it died
        if slot.why == "" and slot.pid is None:
            self._failed_starts += 1
        if slot.flights:
            self._failed_starts = 0
            how = "closed its connection" if slot.why == "silent" else ending(code)
            self._lost(slot, f"the verifier process {how}; it was replaced")
        if judge is not None:
            if self._watched(judge):
                self._selector.unregister(judge)
            judge.close()
        slot.judge, slot.pid, slot.state = None, None, "resting"

    def _keeper_died(self, slot: Slot) -> None:
        """Killed by the judge that it kept, most likely."""
        self._take_words(slot)
        blameless = not slot.flights and slot.pid is None
        self._tally.restarts += slot.judge is not None
        code = self._discard(slot)
        self._failed_starts = self._failed_starts + 1 if blameless else 0
        if slot.flights:
            self._lost(slot, f"the parent of the verifier process {ending(code)}; both were replaced")

    def _discard(self, slot: Slot) -> int | None:
        """End a keeper and its judge for good; the keeper's exit code."""
        for wire in (slot.control, slot.judge):
            if wire is not None and self._watched(wire):
                self._selector.unregister(wire)
        if slot in self.slots:
            self.slots.remove(slot)
        return slot.bury()

    def _watched(self, wire: Wire) -> bool:
        return wire.fileno() >= 0 and wire in self._selector.get_map()

    def _clean_up(self) -> None:
        for slot in self.slots:
            slot.dismiss()
        until = time.monotonic() + END_SECONDS
        for slot in self.slots:
            slot.destroy(patience=max(0.1, until - time.monotonic()))
        self.slots.clear()
        self._output.close()
        self._selector.close()
        self._desk.close()
        shutil.rmtree(self._folder, ignore_errors=True)
