"""The first veto: what does not gain with all units of a block is not looked at with fewer.

Every combination of units and formats costs kernels to tune, so the formats of each layer are measured at
its full width first. One that is not faster than float32 there is offered no further, unless size is asked
for and it may make the bundle smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from codesign.loop.blocks import Block, blocks_of
from codesign.loop.costs import Counts, Seconds
from codesign.loop.offers import Offers
from codesign.loop.sizes import may_be_smaller
from codesign.loop.tables import Space
from passes.formats import DENSE, Format
from passes.report import Refusal
from targets.target import Target


def at_full_width(offers: Mapping[str, Offers]) -> dict[str, Offers]:
    """The same formats, with all units."""
    return {name: replace(o, keeps=(None,), refusals=()) for name, o in offers.items()}


def gainful(
    offers: Mapping[str, Offers], full: Space, seconds: Seconds, smaller_on: Target | None = None
) -> dict[str, Offers]:
    """The offers without what was measured to be no faster; each is refused with its figures.

    Args:
        offers: by name of block.
        full: the kernels of `at_full_width`.
        seconds: measured time of kernels.
        smaller_on: keep what may make a bundle for this target smaller; None looks at time alone.
    """
    blocks = [block for layer in full.layers for block in blocks_of(layer)]
    return {b.name: _gainful(b, offers[b.name], full, seconds, smaller_on) for b in blocks}


def _gainful(
    block: Block, offers: Offers, full: Space, seconds: Seconds, smaller_on: Target | None
) -> Offers:
    name, kernels = block.name, full.kernels[block.name]
    linears = dict(zip(("first", "second"), block.linears, strict=False))
    dense = seconds(kernels.untouched)
    slow: list[Refusal] = []

    def small(part: str, form: Format) -> bool:
        return smaller_on is not None and may_be_smaller(linears[part], form, smaller_on)

    def gains(part: str, what: Format | str, counts: Counts) -> bool:
        takes = seconds(counts)
        if what in (DENSE, "") or takes < dense:
            return True
        if isinstance(what, Format) and takes < inf and small(part, what):
            return True
        reason = (
            f"measured {takes * 1e6:.0f} us with what is around it, {dense * 1e6:.0f} us without"
        )
        slow.append(Refusal(f"{name}.{part}" if part else name, str(what), reason))
        return False

    return replace(
        offers,
        first=tuple(f for f in offers.first if gains("first", f, kernels.first[None, f])),
        second=tuple(f for f in offers.second if gains("second", f, kernels.second[None, f])),
        core=tuple(c for c in offers.core if gains("", c, kernels.core[None, c])),
        refusals=(*offers.refusals, *slow),
    )


def gained_before(offers: Mapping[str, Offers], worth: Mapping[str, Offers]) -> dict[str, Offers]:
    """The offers of a narrower form of the model, as far as their kinds gained in the model itself.

    All its units stay: that there are fewer channels is what makes it another form.

    Args:
        offers: of the narrower form, by name of block.
        worth: of the model itself, without what was vetoed there.
    """
    return {
        name: replace(
            o,
            keeps=(None,),
            first=_of_kinds(o.first, worth[name].first),
            second=_of_kinds(o.second, worth[name].second),
            core=tuple(c for c in o.core if c in worth[name].core),
            refusals=(),
        )
        for name, o in offers.items()
    }


def _of_kinds(forms: tuple[Format, ...], worth: tuple[Format, ...]) -> tuple[Format, ...]:
    """Forms of a family that was worth it, or of its pass where a family is a number of its own width."""
    families = {form.family for form in worth}
    alike = {form.name for form in forms if form.family in families}
    names = {form.name for form in worth} - alike
    return tuple(form for form in forms if form.family in families or form.name in names)
