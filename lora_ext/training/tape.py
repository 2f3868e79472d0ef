"""A forward pass without numbers: what it keeps for the backward pass, and how much it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FULL = 4  # bytes of a float32


@dataclass(frozen=True, eq=False)
class Ghost:
    """A tensor's shape and the bytes of one of its numbers; two ghosts are the same memory when they are one object.

    `learns`: gradients flow through it. Layouts are forgotten: [B, C, H, W] and [B, H·W, C] are both rows x width.
    """

    rows: int
    width: int
    item: int
    learns: bool

    @property
    def bytes(self) -> int:
        """What it holds."""
        return self.rows * self.width * self.item


@dataclass
class _Region:
    """What a part of the pass keeps: of a checkpoint, only until its own backward pass is over."""

    kept: dict[Ghost, None] = field(default_factory=dict)
    largest: int = 0
    """Of the gradients that exist at one time."""
    flops: float = 0.0


@dataclass
class Tape:
    """Notes down what torch's autograd would keep.

    `compute` is the bytes of a number in matrix products, `weights` those of the frozen weights as they lie on the
    device. With half arithmetic the rules are those of CUDA's autocast: products in half, norms in float32.
    """

    compute: int
    weights: int
    outside: _Region = field(default_factory=_Region)
    peak: int = 0
    """Bytes of activations and their gradients at the worst moment."""
    flops: float = 0.0
    """Multiplications and additions of a step: forward, backward, and again what checkpoints compute twice."""
    _inside: _Region | None = None

    @property
    def half(self) -> bool:
        """Whether autocast is at work."""
        return self.compute < FULL

    @property
    def saved(self) -> int:
        """Bytes kept at the end of the forward pass."""
        return sum(ghost.bytes for ghost in self.outside.kept)

    def keep(self, *ghosts: Ghost) -> None:
        """The backward pass will ask for these."""
        region = self._inside or self.outside
        region.kept.update(dict.fromkeys(ghosts))

    def like(self, x: Ghost, width: int | None = None, item: int | None = None, learns: bool | None = None) -> Ghost:
        """New memory, shaped like `x` but for what is said."""
        return Ghost(x.rows, width or x.width, item or x.item, x.learns if learns is None else learns)

    def halved(self, x: Ghost) -> Ghost:
        """`x` as matrix products take it: a copy where its precision is another."""
        return x if x.item == self.compute else self.like(x, item=self.compute)

    def exact(self, x: Ghost) -> Ghost:
        """`x` as norms take it."""
        return x if x.item == FULL else self.like(x, item=FULL)

    def norm(self, x: Ghost, learns: bool = False) -> Ghost:
        """Group or layer norm: keeps its input (in float32) where gradients flow.

        One that `learns` itself gives back the precision it was given, as `Shifted` does.
        """
        given, flows = self.exact(x), x.learns or learns
        if flows:
            self.keep(given)
        return self._made(given, self.like(given, item=x.item if learns else FULL, learns=flows))

    def pointwise(self, x: Ghost) -> Ghost:
        """SiLU, GELU: keeps its input."""
        if x.learns:
            self.keep(x)
        return self._made(x, self.like(x))

    def product(
        self, x: Ghost, width: int, inside: int, *, conv: bool = False, rows: int | None = None, learns: bool = False
    ) -> Ghost:
        """A frozen linear layer or convolution (`inside` numbers go into each number of the result).

        `learns`: its adapter does. Convolutions keep their input although nobody needs it (torch's derivative asks for
        it whatever learns); the weight is kept only where it had to be copied into another precision.
        """
        out = Ghost(rows or x.rows, width, self.compute, x.learns or learns)
        if x.learns and conv:
            self.keep(self.halved(x))
        if x.learns and self.half and self.weights == FULL:
            self.keep(Ghost(width, inside, self.compute, False))
        self.work(2.0 * out.rows * width * inside, once=x.learns)
        return self._made(x, out)

    def add(self, a: Ghost, b: Ghost) -> Ghost:
        """A sum keeps nothing."""
        return Ghost(a.rows, a.width, max(a.item, b.item), a.learns or b.learns)

    def attention(self, q: Ghost, k: Ghost, v: Ghost, heads: int, batch: int) -> Ghost:
        """Flash or memory-efficient attention: keeps its inputs, its result and a number per row and head."""
        learns = q.learns or k.learns or v.learns
        out = Ghost(q.rows, q.width, self.compute, learns)
        if learns:
            self.keep(q, k, v, out, Ghost(q.rows, heads, FULL, learns=False))
            self.gradients(q, k, v, out)
        self.work(4.0 * q.rows * (k.rows // batch) * q.width, once=learns, times=2.5)
        return out

    def gradients(self, *ghosts: Ghost) -> None:
        """Gradients of all of these exist at one time."""
        region = self._inside or self.outside
        region.largest = max(region.largest, sum(ghost.bytes for ghost in ghosts))

    def work(self, flops: float, once: bool, times: float = 1.0) -> None:
        """Note computing: forward, and `times` as much backward where `once` says that gradients flow."""
        region = self._inside or self.outside
        region.flops += flops
        self.flops += flops * (1 + (times if once else 0))

    @contextmanager
    def checkpoint(self, on: bool, *inputs: Ghost) -> Iterator[None]:
        """Inside, nothing is kept but until its own backward pass: it is computed again there from `inputs`."""
        if not on or self._inside is not None or not any(x.learns for x in inputs):
            yield
            return
        self.outside.kept.update(dict.fromkeys(inputs))
        self._inside = region = _Region()
        try:
            yield
        finally:
            self._inside = None
        self.flops += region.flops
        extra = sum(ghost.bytes for ghost in region.kept if ghost not in self.outside.kept)
        self._note(extra + region.largest)

    def finish(self) -> None:
        """The pass is over and the backward pass begins."""
        self._note(self.outside.largest)

    def _made(self, given: Ghost, made: Ghost) -> Ghost:
        if made.learns:
            self.gradients(made, *([given] if given.learns else []))
        return made

    def _note(self, extra: int) -> None:
        self.peak = max(self.peak, self.saved + extra)
