"""Raises KeyboardInterrupt at the nth point at which the interpreter checks for signals.

    point = Interrupt(41, [group_commit, writer])
    with point: log.append(...)          at the 41st such point of these modules
    point.at                             the place; None if there were fewer points

The interpreter checks for signals when a function begins, after a call, and at each loop iteration.

Invariant: a run is interrupted at most once.
"""

import dis
import sys
from collections.abc import Iterable
from functools import cache
from types import CodeType, FrameType, ModuleType
from typing import Any, Self

CHECK_OPCODES = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD"})


@cache
def _operations(code: CodeType) -> dict[int, str]:
    return {found.offset: found.opname for found in dis.get_instructions(code)}


class Interrupt:
    """Interrupts the thread that enters it."""

    def __init__(self, nth: int, modules: Iterable[ModuleType]) -> None:
        self.at: str | None = None
        self._left = nth
        self._files = {module.__file__ for module in modules}
        self._before: dict[FrameType, str] = {}

    def __enter__(self) -> Self:
        sys.settrace(self._enter_function)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_function(self, frame: FrameType, _event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes = True
        self._check(frame)
        return self._follow

    def _follow(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            before = self._before.get(frame)
            self._before[frame] = _operations(frame.f_code)[frame.f_lasti]
            if before in CHECK_OPCODES:
                self._check(frame)
        elif event == "return":
            self._before.pop(frame, None)
        return self._follow

    def _check(self, frame: FrameType) -> None:
        self._left -= 1
        if self._left == 0:
            sys.settrace(None)
            self.at = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
            raise KeyboardInterrupt
