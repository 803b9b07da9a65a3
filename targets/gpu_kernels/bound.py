"""Whether all that a function does is bound to work items.

TVM 0.27 makes host code of what is not, without a word: code that would write to memory of the device.
"""

from __future__ import annotations

from tvm import s_tir, tirx

THREAD_EXTENT = "thread_extent"
"""Attribute that binds what is under it, in functions that TVM wrote for GPUs."""


def is_bound(func: tirx.PrimFunc) -> bool:
    """True if every store of a function is under a loop over work groups or work items."""
    return _bound(func.body)


def _bound(statement: tirx.Stmt) -> bool:
    if isinstance(statement, tirx.For):
        return statement.kind == tirx.ForKind.THREAD_BINDING or _bound(statement.body)
    if isinstance(statement, tirx.AttrStmt):
        return statement.attr_key == THREAD_EXTENT or _bound(statement.body)
    if isinstance(statement, s_tir.SBlockRealize):
        return _bound(statement.block.body)
    if isinstance(statement, tirx.SeqStmt):
        return all(_bound(part) for part in statement.seq)
    if isinstance(statement, tirx.IfThenElse):
        other = statement.else_case
        return _bound(statement.then_case) and (other is None or _bound(other))
    return not isinstance(statement, tirx.BufferStore)
