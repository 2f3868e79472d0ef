"""When the learning bench calls one side worse than the other."""

import pytest

from benchmarks.learn_chance import chance_of


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
