"""Reshapes and transposes as data: composed, cancelled and moved without touching a graph.

A chain of reshape, permute, expand and squeeze reads the same numbers in another order. Splitting
the axes into *atoms* (factors of the axis lengths, the finest that the chain needs) turns the whole
chain into one permutation of atoms, and equal chains into equal objects.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A tensor of ``shape`` read from a base tensor.

    Attributes:
        base: shape of the base tensor.
        atoms: lengths (> 1) whose product is the base's size, in the base's order; every axis of
            the base is the product of neighbouring atoms.
        order: for each position of the view, which atom of the base stands there.
        shape: the view's own shape; every axis is the product of neighbouring entries of ``order``.
    """

    base: Shape
    atoms: Shape
    order: tuple[int, ...]
    shape: Shape

    @staticmethod
    def of(shape: Shape) -> View:
        """The base tensor itself."""
        atoms = tuple(n for n in shape if n != 1)
        return View(shape, atoms, tuple(range(len(atoms))), shape)

    @property
    def trivial(self) -> bool:
        """Whether this is the base tensor itself."""
        return self.in_order and self.shape == self.base

    @property
    def turned(self) -> bool:
        """Whether this is the base with its axes in another order, and nothing else."""
        order = self.axis_order()
        return order is not None and order != tuple(range(len(order)))

    @property
    def in_order(self) -> bool:
        """Whether a reshape of the base gives this view."""
        return self.order == tuple(range(len(self.order)))

    def reshape(self, shape: Shape) -> View | None:
        """This view in another shape of the same size; None where an axis would cross an atom."""
        if 0 in shape or prod(shape) != prod(self.shape):
            return None
        refined: list[list[int]] = []
        axes = [n for n in shape if n != 1]
        for atom in (self.atoms[i] for i in self.order):
            pieces: list[int] = []
            while atom > 1:
                step = _shared(atom, axes[0])
                if step is None:
                    return None
                pieces.append(step)
                atom //= step
                axes[0] //= step
                if axes[0] == 1:
                    axes.pop(0)
            refined.append(pieces)
        return self._split(refined, shape)

    def _split(self, refined: list[list[int]], shape: Shape) -> View:
        """Replace the atom at each view position by its pieces."""
        pieces = dict(zip(self.order, refined, strict=True))
        start: dict[int, int] = {}
        atoms: list[int] = []
        for index in range(len(self.atoms)):
            start[index] = len(atoms)
            atoms.extend(pieces[index])
        order = [start[i] + j for i in self.order for j in range(len(pieces[i]))]
        return View(self.base, tuple(atoms), tuple(order), shape)

    def groups(self) -> list[tuple[int, ...]]:
        """For each axis of the view, the atoms it is made of; none for an axis of length 1."""
        return _group([self.atoms[i] for i in self.order], self.order, self.shape)

    def base_groups(self) -> list[tuple[int, ...]]:
        """For each axis of the base, the atoms it is made of; none for an axis of length 1."""
        return _group(list(self.atoms), tuple(range(len(self.atoms))), self.base)

    def permute(self, axes: tuple[int, ...]) -> View:
        """This view with its axes in another order."""
        groups = self.groups()
        order = tuple(atom for axis in axes for atom in groups[axis])
        return View(self.base, self.atoms, order, tuple(self.shape[axis] for axis in axes))

    def steps(self) -> tuple[Shape, tuple[int, ...] | None, Shape]:
        """The shortest way there: reshape the base, permute (None if not), reshape to shape."""
        if self.in_order:
            return self.base, None, self.shape
        runs: list[list[int]] = []
        for atom in self.order:
            if runs and atom == runs[-1][-1] + 1:
                runs[-1].append(atom)
            else:
                runs.append([atom])
        by_base = sorted(range(len(runs)), key=lambda r: runs[r][0])
        first = tuple(prod(self.atoms[a] for a in runs[r]) for r in by_base)
        return first, tuple(by_base.index(r) for r in range(len(runs))), self.shape

    def read(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the view shows of an array of the base's shape."""
        first, axes, shape = self.steps()
        split = array.reshape(first)
        return (split if axes is None else split.transpose(axes)).reshape(shape)

    def sorted_last(self) -> tuple[View, tuple[Shape, tuple[int, ...]]] | None:
        """This view with its last axis in the order in which the base has it.

        What sums over the last axis may read it in any order: flattened images stay as they lie.

        Returns:
            The view, and how to bring an array's last axis there: its lengths once split, and the
            order to permute them to. None if the order is right, or not all lies at the end.
        """
        last = self.groups()[-1] if self.shape else ()
        lead = self.order[: len(self.order) - len(last)]
        if list(last) == sorted(last) or set(lead) != set(range(len(lead))):
            return None
        order = tuple(sorted(range(len(last)), key=lambda i: last[i]))
        split = tuple(self.atoms[a] for a in last)
        return View(self.base, self.atoms, (*lead, *sorted(last)), self.shape), (split, order)

    def trailing(self) -> View | None:
        """The base reshaped so that its last axis is this view's; None if that is elsewhere.

        The leading axes of the base keep their order, and one is always there: what a product over
        the last axis may read instead of the view.
        """
        if not self.shape:
            return None
        last = self.groups()[-1]
        first = len(self.atoms) - len(last)
        if last != tuple(range(first, len(self.atoms))):
            return None
        if self.base[-1:] == self.shape[-1:]:
            return View.of(self.base)
        lead: list[int] = []
        missing = prod(self.atoms[:first])
        for axis, group in zip(self.base, self.base_groups(), strict=True):
            if missing == 1:
                break
            lead.append(prod(self.atoms[a] for a in group if a < first) if group else axis)
            missing //= lead[-1]
        return View.of(self.base).reshape((*(lead or [1]), self.shape[-1]))

    def axis_order(self) -> tuple[int, ...] | None:
        """The axis of the base that each axis of the view is; None unless it only permutes axes."""
        if len(self.shape) != len(self.base):
            return None
        free = list(range(len(self.base)))
        groups = self.base_groups()
        order: list[int] = []
        for group in self.groups():
            # axes of length 1 are made of nothing: any of them will do, so the first that is left
            found = next((axis for axis in free if groups[axis] == group), None)
            if found is None:
                return None
            order.append(found)
            free.remove(found)
        return tuple(order)

    def onto(self, narrow: Shape, base: Shape) -> tuple[Shape, tuple[int, ...], Shape] | None:
        """How what is broadcast against this view meets the base instead.

        Args:
            narrow: a shape that broadcasts to that of the view.
            base: shape of the base, or another that divides between the same atoms.

        Returns:
            The operand reshaped, its axes permuted, and reshaped again broadcasts to ``base`` and
            pairs the same numbers. None if it would have to be repeated for that.
        """
        if len(narrow) > len(self.shape):
            return None
        padded = (1,) * (len(self.shape) - len(narrow)) + narrow
        split: list[int] = []
        for length, axis, group in zip(padded, self.shape, self.groups(), strict=True):
            if length not in (1, axis):
                return None
            split.extend(self.atoms[a] if length == axis else 1 for a in group)
        axes = tuple(sorted(range(len(self.order)), key=lambda i: self.order[i]))
        pairs = [(self.atoms[self.order[i]], split[i]) for i in axes]
        merged: list[int] = []
        for length in base:
            full = part = 1
            while full < length and pairs:
                atom, kept = pairs.pop(0)
                full, part = full * atom, part * kept
            if full != length or part not in (1, length):
                return None
            merged.append(part)
        return tuple(split), axes, tuple(merged)

    def reduced(self, axes: Collection[int], keepdims: bool) -> tuple[tuple[int, ...], View] | None:
        """A reduction over axes of the view as one over axes of the base.

        Returns:
            Those axes of the base, and the view of what is left of it that is the result. None
            if an axis of the base would be reduced in part.
        """
        groups = self.groups()
        gone = {atom for axis in axes for atom in groups[axis]}
        found: list[int] = []
        for axis, group in enumerate(self.base_groups()):
            if group and set(group) <= gone:
                found.append(axis)
            elif set(group) & gone:
                return None
        kept = [a for a in range(len(self.atoms)) if a not in gone]
        base = tuple(n for axis, n in enumerate(self.base) if axis not in found)
        shape = tuple(
            1 if axis in axes else n
            for axis, n in enumerate(self.shape)
            if keepdims or axis not in axes
        )
        order = tuple(kept.index(a) for a in self.order if a not in gone)
        return tuple(found), View(base, tuple(self.atoms[a] for a in kept), order, shape)

    def with_last(self, base: Shape, length: int) -> View:
        """The same order of leading atoms on ``base``, whose last axis now has ``length``."""
        last = self.groups()[-1]
        kept = len(self.atoms) - len(last)
        extra = () if length == 1 else (length,)
        lead = tuple(i for i in self.order if i < kept)
        order = lead + tuple(range(kept, kept + len(extra)))
        return View(base, self.atoms[:kept] + extra, order, (*self.shape[:-1], length))


def _shared(atom: int, axis: int) -> int | None:
    """The piece of an atom that fits into the rest of an axis; None if they cross."""
    if atom % axis == 0:
        # the axis ends inside the atom: its right part goes on in the next axis
        return axis
    return atom if axis % atom == 0 else None


def _group(lengths: list[int], names: tuple[int, ...], shape: Shape) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    at = 0
    for axis in shape:
        start = at
        left = axis
        while left > 1:
            left //= lengths[at]
            at += 1
        groups.append(names[start:at])
    return groups
