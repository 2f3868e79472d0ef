"""When the learning bench calls one side worse than the other."""

import pytest

from benchmarks.learn_chance import chance_of
from benchmarks.learn_score import Both
from benchmarks.learning import Pair


def test_sides_that_agree_are_not_worse() -> None:
    assert chance_of([1, 0, 1], [1, 0, 1]) == 1.0
    assert chance_of([], []) == 1.0


def test_only_what_differs_counts() -> None:
    """Five tosses that all fall the same way: one in 32."""
    assert chance_of([0] * 5, [1] * 5) == pytest.approx(1 / 32)
    assert chance_of([0] * 5 + [1] * 90, [1] * 95) == pytest.approx(1 / 32)


def test_what_is_better_makes_up_for_what_is_worse() -> None:
    """At least two of three tosses: a half."""
    assert chance_of([2, 2, 9], [3, 3, 8]) == pytest.approx(1 / 2)
    assert chance_of([1, 1, 1], [0, 0, 0]) == 1.0


def test_pairs_must_pair() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        chance_of([1], [1, 1])


def both(number: int) -> Both:
    """The character shows in all of 40 pictures, the style in the first `number`."""
    return Both((True,) * 40, tuple(i < number for i in range(40)), [])


def test_two_together_must_show_both() -> None:
    assert both(30).shares == (1.0, 0.75, 0.75)
    assert not Pair(both(32), both(32)).missed()
    (missed,) = Pair(both(30), both(30)).missed()
    assert "both shown in 75% < 80%" in missed


def test_two_together_must_not_show_less_than_the_peers_two() -> None:
    (missed,) = Pair(both(35), both(40)).missed()
    assert "5 less with both than the peer's, which chance alone does in 3% of runs" in missed
    assert not Pair(both(38), both(40)).missed()
    (told,) = Pair(both(38), both(40)).by_chance()
    assert "2 less with both than the peer's, which chance alone does in 25% of runs" in told
