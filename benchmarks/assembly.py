"""Loops of AArch64 assembly, as compilers write it: what they consist of, and what they keep on the stack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r"([.\w$]+):")
_JUMP = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
_INSTRUCTION = re.compile(r"\s+([a-z][\w.]*(?:\s.*)?)$")
_COMMENT = re.compile(r"\s*(//|;).*$")
_STACK = re.compile(r"(?:ld|st)\w+\s.*\[sp\b")
_VECTOR = re.compile(r"\b[bhsdqv]\d+\b")


@dataclass(frozen=True)
class Loop:
    """A loop without a loop in it.

    Attributes:
        instructions: from behind its label to the jump back, without labels and directives.
    """

    instructions: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Instructions that begin as the regular expression says."""
        return sum(bool(re.match(pattern, line)) for line in self.instructions)

    def varying(self, pattern: str) -> int:
        """`count` of those that multiply nothing that stays the same throughout the loop, as ones do."""
        written = {
            register
            for line in self.instructions
            if not line.startswith("st")
            for register in _vectors(line)[: 2 if line.startswith("ldp") else 1]
        }
        return sum(
            bool(re.match(pattern, line)) and written.issuperset(_vectors(line)[1:])
            for line in self.instructions
        )

    @property
    def spills(self) -> int:
        """Loads from the stack and stores to it: what did not fit the registers."""
        return sum(bool(_STACK.match(line)) for line in self.instructions)


def _vectors(instruction: str) -> list[str]:
    """Numbers of the vector registers that an instruction names, in order."""
    return [name[1:] for name in _VECTOR.findall(instruction)]


def innermost(text: str) -> Iterator[Loop]:
    """Every loop without a loop in it, in the order of the text."""
    lines = [_COMMENT.sub("", line).rstrip() for line in text.splitlines()]
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = i
        elif (jump := _JUMP.match(line.strip())) and jump[1] in labels:
            spans.append((labels[jump[1]], i))
    for first, last in spans:
        around = [(a, b) for a, b in spans if (a, b) != (first, last)]
        if not any(first <= a and b <= last for a, b in around):
            body = (_INSTRUCTION.match(line) for line in lines[first + 1 : last + 1])
            yield Loop(tuple(found[1] for found in body if found))


def busiest(text: str, pattern: str) -> Loop | None:
    """The innermost loop with most instructions of a kind, of equals the shortest; None if none has one."""
    loops = [loop for loop in innermost(text) if loop.count(pattern)]
    if not loops:
        return None
    return max(loops, key=lambda loop: (loop.count(pattern), -len(loop.instructions)))
