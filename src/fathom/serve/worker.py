"""The one thread that owns an engine. Requests go in through an inbox, and what is written goes to their own queues.

Everything that touches the engine happens in that thread, between two steps: a request joins, one that nobody waits for
any more leaves, and the passes that read a text for its score go on by a chunk.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from fathom.errors import FathomError
from fathom.generation.engine import Engine
from fathom.generation.slots import Request, Slot
from fathom.generation.text import Piece
from fathom.serve.failures import Busy, Failure, Fault, Stopping, of

QUEUE = 128  # continuations that may wait beside those that are being written


class InTurn:
    """A lock that goes to whoever asked first: two threads that both want a model's cores again and again take
    turns."""

    def __init__(self) -> None:
        self.mutex, self.waiting = threading.Lock(), deque[threading.Lock]()

    def __enter__(self) -> None:
        own = threading.Lock()
        own.acquire()
        with self.mutex:
            self.waiting.append(own)
            first = self.waiting[0] is own
        if not first:
            own.acquire()  # until the one before lets go

    def __exit__(self, *_: object) -> None:
        with self.mutex:
            self.waiting.popleft()
            if self.waiting:
                self.waiting[0].release()


class Job:
    """The continuations of one request, as the event loop sees them: iterate over (index, piece).

    count: how many there are. requests: what they ask of the engine, once that is known. began, first, last: seconds of
    the monotonic clock at which it was let in, and had its first and its newest token.
    """

    def __init__(self, count: int) -> None:
        self.count, self.requests, self.loop = count, list[Request](), asyncio.get_running_loop()
        self.arrived: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self.left, self.over = count, False
        self.began = time.monotonic()
        self.first = self.last = 0.0
        self.reused = self.tokens = 0

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        """Failure: what went wrong with this request."""
        if not self.left:
            raise StopAsyncIteration
        index, what = await self.arrived.get()
        if isinstance(what, Exception):
            self.left = 0
            raise what
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.tokens += 1
        self.left -= what.finish_reason is not None
        return index, what


Told = list[tuple[Job, int, Piece | Exception]]


def hand_out(told: Told) -> None:
    """On the event loop: what was written, to those who wait for it."""
    for job, index, what in told:
        job.arrived.put_nowait((index, what))


class Worker:
    """The engine and its thread. full, enter, submit, cancel, read and stop are called on the event loop."""

    def __init__(self, engine: Engine, turn: InTurn | None = None, most: int | None = None) -> None:
        """turn: shared with others that run models on the same cores. most: continuations that are taken at once."""
        self.engine, self.turn = engine, turn or InTurn()
        self.most = engine.rows + QUEUE if most is None else most
        self.inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.jobs: set[Job] = set()  # on the event loop
        self.live: dict[int, tuple[Slot, Job, int]] = {}  # in the thread, by the slot's identity
        self.readings: deque[tuple[Iterator[Any], Callable[[Any], None]]] = deque()
        self.told: Told = []  # in the thread: what this step has written
        self.stopping = False
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self.thread.start()

    def full(self, count: int = 1) -> Failure | None:
        """Why so many continuations more are not taken: too many would wait, or the server ends."""
        if self.stopping:
            return Stopping()
        return Busy(self.most) if sum(job.count for job in self.jobs) + count > self.most else None

    def enter(self, count: int) -> Job:
        """Keep a place for so many continuations, whose requests are still to be made. Failure: as `full` says."""
        if failure := self.full(count):
            raise failure
        job = Job(count)
        self.jobs.add(job)
        return job

    def submit(self, job: Job, requests: Sequence[Request]) -> None:
        """Hand the requests of a job over."""
        assert len(requests) == job.count
        job.requests = [*requests]
        self.inbox.put(lambda: self.add(job))

    def cancel(self, job: Job) -> None:
        """Nobody waits for this any more, or it is whole; its slots are free before the next step."""
        if job in self.jobs:
            self.jobs.remove(job)
            self.inbox.put(lambda: self.drop(job))

    async def read(self, passes: Iterator[Any]) -> Any:
        """The last value of an iterator that runs the model, one value between two steps."""
        if self.stopping:
            raise Stopping
        if len(self.readings) >= QUEUE:
            raise Busy(QUEUE)
        loop, answer = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def done(what: Any) -> None:
            if not answer.cancelled():
                (answer.set_exception if isinstance(what, Exception) else answer.set_result)(what)

        def say(what: Any) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done, what)

        self.inbox.put(lambda: self.readings.append((passes, say)))
        return await answer

    async def stop(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take nothing more, wait up to `grace` seconds for what is being written, or until `hurry` says so; end the
        rest, and the thread."""
        self.stopping = True
        until = time.monotonic() + grace
        while self.jobs and time.monotonic() < until and not hurry():
            await asyncio.sleep(0.02)
        for job in list(self.jobs):
            job.arrived.put_nowait((0, Stopping()))
            self.cancel(job)
        self.inbox.put(None)

    def run(self) -> None:
        """The thread's life."""
        while self.receive():
            if self.live:
                self.step()
            if self.readings:
                self.read_on()
            self.tell()

    def deliver(self, job: Job, index: int, what: Piece | Exception) -> None:
        """To be told at the end of the step."""
        self.told.append((job, index, what))

    def tell(self) -> None:
        """Wake the event loop once for all that a step has written. One that has ended asks for nothing any more."""
        told, self.told = self.told, []
        for loop in {job.loop for job, _, _ in told}:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(hand_out, [one for one in told if one[0].loop is loop])

    def receive(self) -> bool:
        """Do what was asked for since the last step; wait for it where there is nothing else to do."""
        asked = True if self.live or self.readings else self.inbox.get()
        while asked is not None:
            if callable(asked):
                asked()
            try:
                asked = self.inbox.get_nowait()
            except Empty:
                return True
        return False

    def add(self, job: Job) -> None:
        """Give the engine all continuations of a job, or none."""
        if job.over:
            return None
        for index, request in enumerate(job.requests):
            try:
                slot = self.engine.add(request)
            except Exception as error:
                self.deliver(job, index, of(error) if isinstance(error, FathomError) else Fault(error))
                return self.drop(job)
            self.live[id(slot)] = slot, job, index
        return None

    def drop(self, job: Job) -> None:
        """Free the slots of a job."""
        job.over = True
        for slot in [slot for slot, owner, _ in self.live.values() if owner is job]:
            self.free(slot)

    def free(self, slot: Slot) -> None:
        if self.live.pop(id(slot), None) is not None:
            with suppress(Exception):  # after a fault of the engine there may be nothing to free
                self.engine.cancel(slot)

    def step(self) -> None:
        """A step of the engine, and its pieces to those who wait for them."""
        try:
            with self.turn:
                events = self.engine.step()
        except Exception as error:  # whatever a fault is; those whose pass it was are told
            return self.fail(error)
        for slot, what in events:
            if id(slot) in self.live:
                self.pass_on(slot, what)
        return None

    def fail(self, error: Exception) -> None:
        """End every request that is being answered with what went wrong; those after them are answered again."""
        for _, job, index in list(self.live.values()):
            if not job.over:
                self.deliver(job, index, error if isinstance(error, Failure) else Fault(error))
                self.drop(job)

    def pass_on(self, slot: Slot, what: Piece | Exception) -> None:
        _, job, index = self.live[id(slot)]
        if isinstance(what, Exception):
            self.deliver(job, index, Fault(what))
            return self.drop(job)
        job.reused = max(job.reused, getattr(slot, "reused", 0))
        constraint = job.requests[index].constraint
        if what.finish_reason is not None:
            del self.live[id(slot)]
        elif constraint is not None and constraint.finished:
            what = replace(what, finish_reason="stop")
            self.free(slot)
        self.deliver(job, index, what)
        return None

    def read_on(self) -> None:
        """One more pass of the oldest reading."""
        passes, say = self.readings[0]
        try:
            with self.turn:
                value = next(passes)
        except Exception as error:
            self.readings.popleft()
            say(of(error) if isinstance(error, FathomError) else Fault(error))
        else:
            if value is not None:
                self.readings.popleft()
                say(value)
