"""Results that wait for one another."""

from __future__ import annotations

import pytest

from tileserver.errors import Overloaded, UdfError
from tileserver.waits import MOST_BYTES, Waits


def test_a_circle_is_refused_where_a_run_would_be_joined() -> None:
    """However many results it leads through."""
    waits = Waits()

    with waits.waiting("a", "b", may_join=True), waits.waiting("b", "c", may_join=True):
        for other in ("a", "b", "c"):
            with pytest.raises(UdfError, match="in a circle"), waits.waiting("c", other, may_join=True):
                pass


def test_a_run_of_its_own_may_call_itself() -> None:
    """It is another run, and its depth is counted."""
    waits = Waits()

    with waits.waiting("a", "a", may_join=False), waits.waiting("a", "b", may_join=False):
        pass


def test_what_has_ended_is_waited_for_no_longer() -> None:
    """The same two may wait again, also the other way round; several may wait for one."""
    waits = Waits()

    with waits.waiting("a", "b", may_join=True):
        with waits.waiting("a", "b", may_join=True), waits.waiting("c", "b", may_join=True):
            pass
        with pytest.raises(UdfError), waits.waiting("b", "a", may_join=True):
            pass
    with waits.waiting("b", "a", may_join=True):
        pass


def test_so_many_runs_of_an_owner_may_wait() -> None:
    """Each keeps a process. A run that waits already may ask for more, and another owner has its own."""
    waits = Waits()

    with waits.asking("city", 1, 0, most=2), waits.asking("city", 2, 0, most=2):
        with waits.asking("city", 2, 0, most=2), waits.asking("sea", 3, 0, most=2):
            pass
        with pytest.raises(Overloaded, match="queue_limit"), waits.asking("city", 3, 0, most=2):
            pass
    with waits.asking("city", 3, 0, most=2):
        pass


def test_so_much_may_be_asked_for_at_the_same_time() -> None:
    """By all runs of an owner together."""
    waits = Waits()

    with waits.asking("city", 1, MOST_BYTES - 1, most=9):
        with waits.asking("city", 2, 1, most=9):
            pass
        with pytest.raises(Overloaded, match="bytes"), waits.asking("city", 2, 2, most=9):
            pass
    with waits.asking("city", 2, MOST_BYTES, most=9):
        pass
