"""The measured veto: compression that gains nothing that is asked for is not taken."""

from __future__ import annotations

from dataclasses import replace

from codesign.search.tables import Group, Option, Tables


def veto_slow(tables: Tables, gain: float = 0.02, *, sized: bool = False) -> Tables:
    """Veto options that are not faster than one that loses no more quality.

    "Pruned, and not faster" ends here: a sparse layer that measures as slow as the dense one gets
    a reason instead of a place in the search. Vetoes that are there already stay. Shortening the
    sequence gains in later layers, and is never vetoed.

    Args:
        gain: share by which an option must be faster; differences below it are noise.
        sized: size is asked for too: an option is vetoed if one that loses no more quality is neither
            slower nor larger, and smaller by less than ``gain`` is not smaller.
    """
    groups = {group.name: _checked(group, gain, sized) for group in tables.groups}
    return replace(
        tables,
        layers=tuple(
            replace(layer, groups=tuple(groups[g.name] for g in layer.groups))
            for layer in tables.layers
        ),
    )


def _checked(group: Group, gain: float, sized: bool) -> Group:
    if group.shortens:
        return group
    kept: list[Option] = []
    reasons: dict[int, str] = {}
    order = sorted(
        (i for i, o in enumerate(group.options) if not o.veto),
        key=lambda i: (group.options[i].error, group.options[i].seconds, i),
    )
    for i in order:
        option = group.options[i]
        # any kept option loses no more quality; the fastest that is no larger is the one to beat
        rivals = [o for o in kept if not sized or option.size > o.size * (1.0 - gain)]
        rival = min(rivals, key=lambda o: o.seconds, default=None)
        if rival is not None and option.seconds > rival.seconds * (1.0 - gain):
            smaller = f" nor smaller ({_kb(option)} and {_kb(rival)})" if sized else ""
            reasons[i] = (
                f"measured {option.seconds * 1e6:.0f} us, not faster than {rival.label} "
                f"({rival.seconds * 1e6:.0f} us){smaller}, which loses no more quality"
            )
        else:
            kept.append(option)
    return replace(
        group,
        options=tuple(
            replace(o, veto=reasons[i]) if i in reasons else o for i, o in enumerate(group.options)
        ),
    )


def _kb(option: Option) -> str:
    return f"{option.size / 1e3:.1f} kB"
