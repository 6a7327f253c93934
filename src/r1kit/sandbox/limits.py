"""What a program in the sandbox may use, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Status = Literal["ok", "error", "timeout", "memory", "output", "refused"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Limits:
    """Limits of one run. A program that passes one is killed with everything it started."""

    seconds: float = 6.0
    """Processor seconds a process may use. A busy machine does not make a right program late."""
    wall_seconds: float = 20.0
    """Seconds by the clock: what ends a program that sleeps."""
    memory_mb: int = 512
    """Memory of one process, and of all processes together."""
    address_space: bool = True
    """Also limit the addresses a process may reserve. JavaScript engines reserve gigabytes they do not use."""
    stack_mb: int = 64
    """Of the main thread: deep recursion in C++ needs it."""
    processes: int = 32
    """Processes and threads at one time."""
    output_bytes: int = 1 << 20
    """Of standard output, and of standard error."""
    file_mb: int = 32
    """All files in /tmp together. In an unsafe sandbox it bounds each file only."""
    open_files: int = 128

    def __post_init__(self) -> None:
        for name in (
            "seconds",
            "wall_seconds",
            "memory_mb",
            "stack_mb",
            "processes",
            "output_bytes",
            "file_mb",
            "open_files",
        ):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; give a limit above 0")


@dataclass(frozen=True)
class Ran:
    """What came of one run."""

    status: Status
    """`ok`: exit code 0. `error`: another exit code or a signal. `timeout`, `memory`, `output`: the limit that was
    passed. `refused`: the sandbox itself failed, which says nothing about the program."""
    returncode: int
    """Exit code; -N where signal N ended the program."""
    stdout: str
    """UTF-8; bytes that are not are replaced."""
    stderr: str
    seconds: float
    """By the clock."""
    reason: str = ""
    """Why it was refused."""
    stopped: bool = False
    """Refused because `Running.stop` ended it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files asked for with `fetch`, where the program made them."""
