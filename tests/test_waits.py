"""Results that wait for one another."""

from __future__ import annotations

import pytest

from tileserver.errors import UdfError
from tileserver.waits import Waits


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
