"""Command groups in which one command may be left out."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def group_with(default: str, alone: str | None = None) -> type[TyperGroup]:
    """A group whose first word may be left out if it is ``default``.

    Args:
        alone: the command that the group without a word stands for; None prints help.
    """

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            words = [a for a in args if not a.startswith("-")]
            if words and words[0] not in self.commands:
                args = [default, *args]
            elif words and args[0] != words[0]:  # options before the command are the command's
                args = [words[0], *(a for a in args if a != words[0])]
            elif alone is not None and not words and "--help" not in args:
                args = [alone, *args]
            return super().parse_args(ctx, args)

    return WithDefault
