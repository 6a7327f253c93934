"""Starts one program under its limits, watches it, and says what came of it.

Runs as process 1 of the run's own process namespace: the program cannot signal or trace it, and the kernel ends
everything in the namespace with it. Standard library only, as spawner.py.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import select
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
import types
from typing import Any

import kernel  # type: ignore[import-not-found]

WATCH_SECONDS = 0.05


def private_mounts(file_bytes: int) -> None:
    """An empty /tmp and /dev/shm of limited size, and a /proc that shows this run's processes only."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", "/tmp", "tmpfs", flags, f"size={file_bytes},nr_inodes=4096,mode=1777")
    if os.path.isdir("/dev/shm"):
        kernel.mount("tmpfs", "/dev/shm", "tmpfs", flags, "size=8m,nr_inodes=64,mode=1777")
    for options in ("subset=pid", ""):  # without the system's files, where the kernel (5.8 and newer) can
        with contextlib.suppress(OSError):
            kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC, options)
            return
    # Where the kernel allows no other /proc, none at all.
    kernel.mount("tmpfs", "/proc", "tmpfs", flags | 1, "size=4k,nr_inodes=2")


def supervise(
    request: dict[str, Any], blobs: list[bytes], channels: list[int], nested: bool, isolated: bool
) -> tuple[dict[str, Any], list[bytes]]:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is deaf to signals that it has no handler for
    limits = request["limits"]
    if nested:
        private_mounts(limits["file_mb"] << 20)
    folder = "/tmp" if nested else tempfile.mkdtemp(prefix="r1kit-")
    os.chdir(folder)
    names, stdin = request["files"], blobs[-1]
    for name, data in zip(names, blobs, strict=False):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
        os.chmod(os.path.join(folder, name), 0o755)
    pipes = [os.pipe() for _ in range(3)]
    failed, report = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(request, pipes, channels, report, isolated, nested)
    for descriptor in (pipes[0][0], pipes[1][1], pipes[2][1], report, *channels):
        os.close(descriptor)
    watch = _Watch(pid, pipes[0][1], pipes[1][0], pipes[2][0], limits, nested)
    reason = ""
    status, code = watch.until_end(stdin, started + limits["wall_seconds"])
    fetched = [_fetch(os.path.join(folder, name), limits["file_mb"] << 20) for name in request["fetch"]]
    if not nested:
        import shutil

        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    os.set_blocking(failed, False)
    with contextlib.suppress(BlockingIOError):  # nothing was written, and a process outside our reach holds it open
        reason = os.read(failed, 1000).decode(errors="replace")
    status = "refused" if reason else status
    reply = {"status": status, "returncode": code, "seconds": time.monotonic() - started}
    reply["reason"] = reason
    reply["fetched"] = [data is not None for data in fetched]
    return reply, [bytes(watch.outputs[1]), bytes(watch.outputs[2]), *(data or b"" for data in fetched)]


class _Watch:
    """Feeds and reads the pipes of one program until it ends or passes a limit."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int, limits: dict[str, Any], nested: bool) -> None:
        self.pid, self.limits, self.nested = pid, limits, nested
        self.stdin = stdin
        self.descriptors = {stdout: 1, stderr: 2}
        self.outputs = {1: bytearray(), 2: bytearray()}
        self.poll = select.poll()
        self.exited = os.pidfd_open(pid)
        for descriptor in (stdin, stdout, stderr):
            os.set_blocking(descriptor, False)
        for descriptor in (stdout, stderr, self.exited):
            self.poll.register(descriptor, select.POLLIN)

    def until_end(self, stdin: bytes, deadline: float) -> tuple[str, int]:
        """Status and exit code; afterwards nothing of the program runs."""
        rest = memoryview(stdin)
        self.poll.register(self.stdin, select.POLLOUT)
        passed = ""
        next_look = time.monotonic() + WATCH_SECONDS
        while not passed:
            now = time.monotonic()
            if now >= deadline:
                passed = "timeout"
                break
            if now >= next_look:
                next_look = now + WATCH_SECONDS
                if self.nested and _memory() > self.limits["memory_mb"] << 20:
                    passed = "memory"
                    break
            events = self.poll.poll(max(1, int(min(deadline - now, WATCH_SECONDS) * 1000)))
            for descriptor, _ in events:
                if descriptor == self.stdin:
                    rest = self._feed(rest)
                elif descriptor in self.descriptors and not self._read(descriptor):
                    passed = "output"
            if any(descriptor == self.exited for descriptor, _ in events):
                break
        self._kill()
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        drained = self._drain()
        if not passed and not drained:
            passed = "output"
        if passed:
            return passed, code
        return self._meaning(code, usage.ru_utime + usage.ru_stime), code

    def _meaning(self, code: int, used: float) -> str:
        if code == 0:
            return "ok"
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used >= self.limits["seconds"]):
            return "timeout"
        last = bytes(self.outputs[2][-400:])
        return "memory" if b"MemoryError" in last or b"std::bad_alloc" in last else "error"

    def _feed(self, rest: memoryview) -> memoryview:
        try:
            rest = rest[os.write(self.stdin, rest[:65536]) :] if rest else rest
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            rest = rest[:0]
        if not rest:
            self.poll.unregister(self.stdin)
            os.close(self.stdin)
            self.stdin = -1
        return rest

    def _read(self, descriptor: int) -> bool:
        """False when the program wrote more than it may."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        output = self.outputs[self.descriptors[descriptor]]
        room = self.limits["output_bytes"] - len(output)
        output += data[:room]
        if not data:
            self.poll.unregister(descriptor)
            del self.descriptors[descriptor]
            os.close(descriptor)
        return len(data) <= room

    def _drain(self) -> bool:
        """What was written before the end and is still in the pipes."""
        for descriptor in list(self.descriptors):
            while descriptor in self.descriptors and select.select([descriptor], [], [], 0)[0]:
                if not self._read(descriptor):
                    return False
        return True

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.nested and os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def _memory() -> int:
    """Bytes that all processes of this run hold together; 0 where there is no /proc to ask."""
    total = 0
    try:
        names = os.listdir("/proc")
    except OSError:
        return 0
    for name in names:
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/status", "rb") as file:
                for line in file:
                    if line.startswith((b"RssAnon:", b"RssShmem:")):
                        total += int(line.split()[1]) << 10
    return total


def _fetch(path: str, most: int) -> bytes | None:
    """A regular file of the program; None for anything else (links and pipes too), and when it is too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        data = file.read(most + 1)
    return data if len(data) <= most else None


def _become(
    request: dict[str, Any],
    pipes: list[tuple[int, int]],
    channels: list[int],
    report: int,
    isolated: bool,
    nested: bool,
) -> None:
    """In the child: take the limits and turn into the program. Never returns."""
    try:
        os.setsid()
        if not nested:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        wanted = [pipes[0][0], pipes[1][1], pipes[2][1], *channels[:1]]
        high = [os.dup2(descriptor, 20 + place, False) for place, descriptor in enumerate(wanted)]
        moved = os.dup2(report, 20 + len(high), False)
        for place, descriptor in enumerate(high):
            os.dup2(descriptor, place, True)
        report = os.dup2(moved, len(high), False)  # closed before any line of the program runs
        kernel.close_from(len(high) + 1)
        if isolated:
            _confine(nested)
        _take_limits(request["limits"], isolated)
        os.umask(0o022)
        command = request["command"]
        if isolated:
            kernel.seccomp()
    except BaseException as error:
        os.write(report, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    if command[0] == "python":
        os.close(report)
        os._exit(_run_python(command[1:]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, for itself
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _confine(nested: bool) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when the machine runs out of memory, this goes first
    kernel.drop_privileges()
    kernel.landlock(["/tmp", "/dev/shm", "/dev/null", "/dev/zero", "/dev/full"])
    if nested:  # its own /proc/self is its own business
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _take_limits(limits: dict[str, Any], isolated: bool) -> None:
    memory, files = limits["memory_mb"] << 20, limits["file_mb"] << 20
    seconds = max(1, -int(-limits["seconds"] // 1))
    wanted = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_DATA: (memory, memory),
        resource.RLIMIT_FSIZE: (files, files),
        resource.RLIMIT_NOFILE: (limits["open_files"], limits["open_files"]),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    if limits["address_space"]:
        room = memory + (256 << 20)  # the stack and the libraries
        wanted[resource.RLIMIT_AS] = (room, room)
    if isolated:
        processes = limits["processes"] + 4  # this sandbox's own
        wanted[resource.RLIMIT_NPROC] = (processes, processes)
    wanted[resource.RLIMIT_STACK] = (limits["stack_mb"] << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    for name, (soft, hard) in wanted.items():
        most = resource.getrlimit(name)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), most if hard == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(name, (soft, hard))


def _run_python(arguments: list[str]) -> int:
    """Run a file as `python FILE ARGUMENTS...` would, in this interpreter: saves its start."""
    for name in ("kernel", "supervise"):
        sys.modules.pop(name, None)
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if path.startswith(sys.base_prefix))]
    sys.argv[:] = arguments
    threading.stack_size(8 << 20)  # by default a thread would have the main thread's large one
    sys.stdin, sys.stdout, sys.stderr = (  # open as long as the program runs
        open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False, buffering=buffering)  # noqa: SIM115
        for number, mode, buffering in ((0, "r", -1), (1, "w", -1), (2, "w", 1))
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    output = sys.stdout
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    code = 0
    try:
        with open(arguments[0], "rb") as file:
            source = file.read()
        module.__dict__.update(__file__=arguments[0], __builtins__=__builtins__)
        exec(compile(source, arguments[0], "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if code == 1 and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        inside = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, inside)
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for file in (sys.stdout, output):
            if file is not None and not file.closed:
                file.flush()
    except BaseException:  # Python's own code for outputs that cannot be written
        return 120
    return code & 0xFF
