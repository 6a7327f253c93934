"""The sandbox as the rest of r1kit sees it: run a command, get its outputs and what it did.

Workers (`spawner.py` behind walls) are started when needed, kept warm and used by one thread at a time. The walls are
bubblewrap's where it is installed and works, else namespaces of our own; Landlock, seccomp and rlimits in both.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, Literal

from r1kit.sandbox import frames
from r1kit.sandbox.limits import Limits, Ran

Walls = Literal["bwrap", "namespaces", "none"]
HERE = os.path.dirname(os.path.abspath(__file__))
INSIDE = "/r1kit-sandbox"
START_SECONDS = 30.0
GRACE_SECONDS = 15.0
"""How long past its wall limit a run may take to report before its worker is given up."""
SYSTEM = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/include")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
INSTALL = "apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora), pacman -S bubblewrap (Arch)"


class SandboxUnavailable(RuntimeError):
    """This machine offers no isolation; the message says what to install."""


class Sandbox:
    """Runs untrusted programs. One object serves many threads, each run in a worker of its own.

    `visible` adds folders that programs may read, such as a site-packages. `walls` picks one kind; by default the
    first that works. With `unsafe=True` there is no isolation at all: only limits.
    SandboxUnavailable where no isolation can be had and `unsafe` is false.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        unsafe: bool = False,
        visible: Sequence[str] = (),
        walls: Walls | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._visible = _visible_paths(visible)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._closed = False
        self._owner = os.getpid()
        self.walls: Walls
        self.walls, first = self._choose("none" if unsafe else walls)
        self._idle.append(first)
        atexit.register(self.close)

    def _choose(self, wanted: Walls | None) -> tuple[Walls, _Worker]:
        faults: list[str] = []
        choices: tuple[Walls, ...] = (wanted,) if wanted else ("bwrap", "namespaces")
        for walls in choices:
            try:
                return walls, _Worker(walls, self._visible)
            except OSError as error:
                faults.append(f"{walls}: {error}")
        raise SandboxUnavailable(
            f"no isolation for untrusted code on this machine ({'; '.join(faults)}); install bubblewrap: {INSTALL}. "
            "In a container, allow user namespaces. --unsafe-code runs the code without isolation, at your own risk"
        )

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        *,
        fetch: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> Ran:
        """Run `command` in an empty folder that holds `files`; the word `python` first runs a file in this Python.

        `fetch` names files to bring back. A failure of the sandbox itself is a Ran with status `refused`.
        """
        return self.start(command, files, stdin, fetch=fetch, limits=limits).wait()

    def start(
        self,
        command: Sequence[str],
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        *,
        fetch: Sequence[str] = (),
        limits: Limits | None = None,
        channel: socket.socket | None = None,
    ) -> Running:
        """Start a run without waiting for it. The program has `channel` as its descriptor 3."""
        if not command:
            raise ValueError("the command is empty; give a program and its arguments")
        files = files or {}
        for name in (*files, *fetch):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"file name {name!r} leaves the folder of the run; give a relative path")
        used = limits or self.limits
        blobs = [data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data for data in files.values()]
        request = {"command": list(command), "limits": asdict(used), "files": list(files), "fetch": list(fetch)}
        blobs.append(stdin.encode("utf-8", "surrogatepass"))
        worker, fault = None, ""
        for _ in range(2):  # a worker may have died meanwhile
            try:
                worker = self._take()
                worker.ask(request, blobs, channel)
                break
            except OSError as error:
                fault = str(error)
                if worker is not None:
                    worker.end()
                    worker = None
        return Running(self, worker, list(fetch), used.wall_seconds + GRACE_SECONDS, fault)

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise OSError("the sandbox is closed")
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.end()
        return _Worker(self.walls, self._visible)

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker.reusable and not self._closed:
                self._idle.append(worker)
                return
        worker.end()

    def close(self) -> None:
        """End all idle workers; runs that go on keep theirs until they are done."""
        if os.getpid() != self._owner:  # a forked child, which also runs this at its end
            return
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for worker in idle:
            worker.end()
        atexit.unregister(self.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Running:
    """A run that was started. Exactly one call of `wait` or `stop` ends it."""

    def __init__(self, sandbox: Sandbox, worker: _Worker | None, fetch: list[str], seconds: float, fault: str) -> None:
        self._sandbox, self._worker, self._fetch, self._seconds, self._fault = sandbox, worker, fetch, seconds, fault
        self._started = time.monotonic()

    def wait(self) -> Ran:
        """What came of it."""
        worker, self._worker = self._worker, None
        if worker is None:
            return _refused(self._fault or "this run was ended before")
        try:
            left = self._seconds - (time.monotonic() - self._started)
            header, blobs = worker.answer(max(left, 0.1))
        except (OSError, EOFError, ValueError) as error:
            worker.end()
            return _refused(f"the sandbox's worker gave no answer: {error or type(error).__name__}")
        self._sandbox._give_back(worker)
        if header["status"] == "refused":
            return _refused(header["reason"], header.get("stopped", False))
        made = zip(self._fetch, header["fetched"], blobs[2:], strict=True)
        return Ran(
            header["status"],
            header["returncode"],
            blobs[0].decode("utf-8", "replace"),
            blobs[1].decode("utf-8", "replace"),
            header["seconds"],
            files={name: data for name, there, data in made if there},
        )

    def stop(self) -> Ran:
        """End it now, in whatever state it is. The Ran is `refused` when it had not ended by itself."""
        if self._worker is not None:
            with contextlib.suppress(OSError):
                self._worker.socket.sendall(b"k")
        self._seconds = time.monotonic() - self._started + GRACE_SECONDS
        return self.wait()


def _refused(reason: str, stopped: bool = False) -> Ran:
    return Ran("refused", -1, "", "", 0.0, reason=reason, stopped=stopped)


class _Worker:
    """One spawner process and the socket to it. OSError when it cannot be started behind `walls`."""

    def __init__(self, walls: Walls, visible: list[str]) -> None:
        ours, theirs = socket.socketpair()
        try:
            self.process = _start(walls, visible, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.socket = ours
        self.reusable = True
        try:
            hello, _ = self.answer(START_SECONDS)
        except (OSError, EOFError):
            said = self._last_words()
            self.end()
            raise OSError(said or "the worker did not start") from None
        if "error" in hello:
            self.end()
            raise OSError(hello["error"])
        self.reusable = walls == "none" or hello["nested"]

    def ask(self, request: dict[str, Any], blobs: list[bytes], channel: socket.socket | None) -> None:
        descriptors = [] if channel is None else [channel.fileno()]
        self.socket.settimeout(START_SECONDS)
        socket.send_fds(self.socket, [b"r"], descriptors)
        frames.send(self.socket, request, blobs)

    def answer(self, seconds: float) -> tuple[dict[str, Any], list[bytes]]:
        self.socket.settimeout(seconds)
        return frames.receive(self.socket)

    def _last_words(self) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stderr is not None
        try:
            return self.process.stderr.read(2000).decode(errors="replace").strip()
        except OSError:
            return ""

    def end(self) -> None:
        """Kill it with everything in it, and wait, so that no zombie is left."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


def _start(walls: Walls, visible: list[str], control: socket.socket) -> subprocess.Popen[bytes]:
    root = os.getuid() == 0
    python = _real_python()
    setup: dict[str, Any] = {"walls": walls, "own_proc": root, "visible": [*visible, HERE]}
    setup |= {"links": _root_links(), "control": control.fileno()}
    inside = f"{INSIDE}/spawner.py" if walls == "bwrap" else f"{HERE}/spawner.py"
    program = [python, "-s", "-P", "-B", inside, json.dumps(setup)]
    if walls == "bwrap":
        program = [*_bwrap(visible, root), *program]
    path = ":".join(dict.fromkeys([os.path.dirname(python), "/usr/local/bin", "/usr/bin", "/bin"]))
    environment = {"PATH": path, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        program,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def _bwrap(visible: list[str], root: bool) -> list[str]:
    if (bwrap := shutil.which("bwrap")) is None:
        raise OSError("bwrap is not installed")
    options = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += [] if root else ["--unshare-user"]
    options += ["--cap-add", "ALL", "--hostname", "sandbox"]
    for link, target in _root_links():
        options += ["--symlink", target, link]
    parents = {str(parent) for path in visible for parent in list(PurePosixPath(path).parents)[:-1]}
    for path in sorted(parents, key=len):  # bubblewrap's own would be closed to all but their owner
        options += ["--perms", "0755", "--dir", path]
    for path in visible:
        options += ["--ro-bind", path, path]
    options += ["--ro-bind", HERE, INSIDE, "--dev", "/dev", "--size", str(32 << 20), "--tmpfs", "/tmp"]
    options += ["--dir", "/proc"] if root else ["--proc", "/proc"]
    return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--"]


def _real_python() -> str:
    """The interpreter itself, without the virtual environment in front of it."""
    return os.path.realpath(sys.executable)


def _root_links() -> list[tuple[str, str]]:
    """/bin -> usr/bin and the like, as this machine has them."""
    names = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
    return [(name, os.readlink(name)) for name in names if os.path.islink(name)]


def _visible_paths(extra: Sequence[str]) -> list[str]:
    """What a program may read: the toolchains' folders, each once, outer folders first."""
    folders = [path for path in (*SYSTEM, *SYSTEM_FILES) if os.path.exists(path)]
    folders += [name for name in ("/bin", "/lib", "/lib64") if os.path.isdir(name) and not os.path.islink(name)]
    node = shutil.which("node")
    node_prefix = [] if node is None else [os.path.dirname(os.path.dirname(os.path.realpath(node)))]
    for prefix in (sys.base_prefix, os.path.dirname(os.path.dirname(_real_python())), *node_prefix, *extra):
        if prefix == "/usr":
            continue
        if not os.path.isdir(prefix):
            raise ValueError(f"visible folder {prefix!r} does not exist; give a folder")
        folders.append(os.path.realpath(prefix))
    kept: list[str] = []
    for path in sorted(set(folders), key=len):
        if not any(path.startswith(outer + "/") for outer in kept):
            kept.append(path)
    return kept
