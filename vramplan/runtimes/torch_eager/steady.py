"""The steady loop: forwards after the first, from one that was traced.

A forward that leaves nothing behind but library workspaces is repeated as it is. One that does (a grid, a bias, a mask that the
module keeps) does less the next time, so it is traced once more, and that turn is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.program import Action, Event, Role
from vramplan.ranges import Range
from vramplan.runtimes.torch_eager.ledger import Held, Ledger

LOOP_COUNT = 3
"""Forwards of the steady loop: the results of two are alive at once, and blocks are reused from the third on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One forward: its events, the buffers it made by number, those that are its results, and the limits of doubtful ones."""

    events: tuple[Event, ...]
    made: dict[int, Held]
    results: tuple[int, ...]
    scratch: dict[int, Range]

    @property
    def left(self) -> set[int]:
        """Buffers that it neither frees nor returns."""
        freed = {event.buffer_index for event in self.events if event.action is Action.FREE}
        return self.made.keys() - freed - set(self.results)


def cut_turn(ledger: Ledger, start: int, first_index: int, results: list[int], scratch: dict[int, Range]) -> Turn:
    """The forward since event *start* and buffer *first_index*; it stays in the ledger."""
    made = {index: ledger.held[index] for index in range(first_index, len(ledger.held))}
    for index in results:
        if index in made and made[index].role is Role.ACTIVATION:
            made[index] = made[index]._replace(role=Role.OUTPUT)
    return Turn(
        events=tuple(ledger.events[start:]),
        made=made,
        results=tuple(index for index in results if index in made),
        scratch={index: scratch[index] for index in made if index in scratch},
    )


def repeat(ledger: Ledger, turn: Turn, previous: list[int], scratch: dict[int, Range], *, drop_outputs: bool) -> None:
    """Write the loop: each turn's results live until the next turn has its own, or until it begins with *drop_outputs*."""
    left = turn.left
    for number in range(LOOP_COUNT):
        if drop_outputs:
            _free_all(ledger, previous)
        renamed: dict[int, int] = {}
        for action, index, op_index in turn.events:
            if index in left or (index not in turn.made and number):
                continue
            if action is Action.HOLD:
                renamed[index] = len(ledger.held)
                ledger.held.append(turn.made[index])
                if index in turn.scratch:
                    scratch[renamed[index]] = turn.scratch[index]
            ledger.events.append(Event(action, renamed.get(index, index), op_index))
        if not drop_outputs:
            _free_all(ledger, previous)
        previous = [renamed[index] for index in turn.results]
    ledger.phase("steady")


def _free_all(ledger: Ledger, indices: list[int]) -> None:
    ledger.events.extend(Event(Action.FREE, index, len(ledger.ops) - 1) for index in indices)
