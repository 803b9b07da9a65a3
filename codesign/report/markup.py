"""HTML that cannot forget to escape: text is escaped, elements are `Html`."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias


class Html(str):
    """Markup that is safe to embed."""

    __slots__ = ()


TIMES, DASH, TO = "\u00d7", "\u2013", " \u2013 "

Content: TypeAlias = "str | int | float | Iterable[Content] | None"
"""What an element may hold: text (escaped), markup (not), nothing, or several of these."""

_VOID = frozenset({"br", "col", "circle", "line", "path", "polyline", "rect", "meta", "input"})


def el(name: str, /, *children: Content, **attributes: str | float | bool | None) -> Html:
    """An element; ``class_`` is ``class``, ``data_point`` is ``data-point``.

    An attribute that is None or False is left out, True stands without a value.
    """
    head = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        head += f" {attribute}" if value is True else f' {attribute}="{_attribute(value)}"'
    if name in _VOID and not children:
        return Html(f"<{head}>" if name in ("br", "col", "meta", "input") else f"<{head}/>")
    return Html(f"<{head}>{join(children)}</{name}>")


def join(content: Content) -> Html:
    """Text escaped, markup as it is, iterables one after the other."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int, float)):
        return Html(html.escape(str(content)))
    return Html("".join(join(part) for part in content))


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant ones, without an exponent; a dash for None."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    size = abs(value)
    decimals = digits - 1
    while size >= 10:
        size /= 10
        decimals -= 1
    while size < 1 and decimals < 9:
        size *= 10
        decimals += 1
    return f"{value:,.{max(decimals, 0)}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash for None."""
    return DASH if share is None else f"{share * 100:.{digits}f} %"


def size(count: int) -> str:
    """Bytes in the unit that reads best."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{number(value)} {unit}"


def _attribute(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(str(value), quote=True)
