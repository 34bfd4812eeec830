"""Who scrolls gets the next sections; who looks around or jumps does not."""

from __future__ import annotations

from volumetool.geometry import AxisLattice, Lattice
from volumetool.live_view.lookahead import Lookahead
from volumetool.live_view.patches import PatchPosition

LATTICE = Lattice(AxisLattice(10, 1, 0, 0, 1), AxisLattice(40, 10, 2, 0, 4), AxisLattice(40, 10, 2, 0, 4))


def places(z: int, *columns: tuple[int, int]) -> list[PatchPosition]:
    return [PatchPosition(0, z, y, x) for y, x in columns]


def test_nothing_is_guessed_before_somebody_scrolls() -> None:
    ahead = Lookahead(LATTICE, 2, 100)
    assert ahead.seen(places(3, (0, 0))) == []
    assert ahead.seen(places(3, (0, 1))) == []


def test_scrolling_guesses_the_whole_view_of_the_next_sections() -> None:
    ahead = Lookahead(LATTICE, 2, 100)
    ahead.seen(places(3, (0, 0)))
    ahead.seen(places(3, (0, 1)))
    expected = [PatchPosition(0, z, 0, x) for z in (4, 5, 6) for x in (0, 1)]
    assert ahead.seen(places(4, (0, 0))) == expected


def test_guesses_follow_the_direction_and_end_at_the_face() -> None:
    ahead = Lookahead(LATTICE, 4, 100)
    ahead.seen(places(4, (0, 0)))
    assert [place.z for place in ahead.seen(places(2, (0, 0)))] == [2, 0]


def test_a_jump_is_no_scrolling() -> None:
    ahead = Lookahead(LATTICE, 4, 100)
    ahead.seen(places(0, (0, 0)))
    assert ahead.seen(places(9, (0, 0))) == []


def test_guesses_are_bounded() -> None:
    ahead = Lookahead(LATTICE, 4, 3)
    ahead.seen(places(0, (0, 0), (0, 1)))
    assert len(ahead.seen(places(1, (0, 0)))) == 3


def test_it_can_be_switched_off() -> None:
    ahead = Lookahead(LATTICE, 0, 100)
    ahead.seen(places(0, (0, 0)))
    assert ahead.seen(places(1, (0, 0))) == []
