"""The clients of the simulation, and the promises that they check with each reply."""

from __future__ import annotations

from random import Random
from typing import Protocol

from .made_up_stream import ViolationError
from .model_engine import ModelEngine
from .truth import Truth


class Clock(Protocol):
    now_ns: int


class Clients:
    """Puts, deletes and looks; what was acknowledged, and when.

    Attributes:
        acked: ids and tokens of acknowledged puts.
        deleted_ns: ids of acknowledged deletes, and when the reply came.
    """

    def __init__(self, clock: Clock, random: Random, truth: Truth) -> None:
        self._clock = clock
        self._random = random
        self._truth = truth
        self._last_token = 0
        self.acked: dict[int, int] = {}
        self.put_ns: dict[int, int] = {}
        self.tried_to_delete: set[int] = set()
        self.deleted_ns: dict[int, int] = {}
        self.looks = 0

    def act(self, engine: ModelEngine) -> None:
        """One command of one client."""
        drawn = self._random.random()
        if drawn < 0.5 or not self.acked:
            self._last_token += 1
            token = self._last_token
            engine.put(token, lambda id: self._put(id, token))
            return
        id = self._random.choice(list(self.acked)[-12:])
        begun_ns = self._clock.now_ns
        if drawn < 0.7:
            self.tried_to_delete.add(id)
            engine.delete(id, lambda found: self._deleted(id, begun_ns, found=found))
        else:
            engine.peek(id, lambda token: self._looked(id, begun_ns, token))

    def _put(self, id: int, token: int) -> None:
        if id in self.acked:
            raise ViolationError(f"id {id} was given out twice")
        if self._truth.token_of(id) != token:
            raise ViolationError(f"the put of job {id} was acknowledged, and is not in the stream")
        self.acked[id] = token
        self.put_ns[id] = self._clock.now_ns

    def _deleted(self, id: int, begun_ns: int, *, found: bool) -> None:
        if found:
            if self._truth.token_of(id) is not None:
                raise ViolationError(f"the delete of job {id} was acknowledged, and is not in the stream")
            if id in self.deleted_ns:
                raise ViolationError(f"job {id} was deleted twice")
            self.deleted_ns[id] = self._clock.now_ns
        else:
            self._looked(id, begun_ns, None)

    def _looked(self, id: int, begun_ns: int, token: int | None) -> None:
        self.looks += 1
        if token is not None:
            if self.deleted_ns.get(id, self._clock.now_ns) < begun_ns:
                raise ViolationError(f"job {id} was shown after its delete was acknowledged")
            if token != self.acked[id]:
                raise ViolationError(f"job {id} has another body")
        elif self._truth.token_of(id) is not None:
            raise ViolationError(f"job {id} was reported as gone, and is in the stream")

    def check_end(self) -> None:
        """Every acknowledged put is there unless its delete was tried, and no deleted job came back."""
        for id, token in self.acked.items():
            there = self._truth.token_of(id)
            if there != token and id not in self.tried_to_delete:
                raise ViolationError(f"job {id} is lost")
            if there is not None and id in self.deleted_ns:
                raise ViolationError(f"job {id} came back")
