"""The process inside the walls that starts programs: one fork per run, each in namespaces of its own.

`python spawner.py JSON`, which names the descriptor of the control socket. A request is one byte (with a descriptor for
the program's channel where there is one), a frame of JSON and the files' bytes; the reply is a frame and the outputs'
bytes. The byte `k` ends the run in progress. Standard library only. What the program reads and writes never touches
the control socket: this process reports.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frames  # noqa: E402  # type: ignore[import-not-found]
import kernel  # noqa: E402  # type: ignore[import-not-found]
import supervise  # noqa: E402  # type: ignore[import-not-found]

NOBODY = 65534
WARM = (
    "abc argparse array ast atexit base64 bisect calendar cmath collections collections.abc contextlib copy csv "
    "dataclasses datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers "
    "operator os pathlib pprint queue random re statistics string struct sys textwrap threading time traceback types "
    "typing unicodedata"
)
"""Imported once, so that a program that uses them starts at once."""
DEVICES = ("null", "zero", "full", "random", "urandom")


def main() -> None:
    setup = json.loads(sys.argv[1])
    _large_stack(setup)
    control = socket.socket(fileno=setup["control"])
    os.set_inheritable(setup["control"], False)
    try:
        nested = raise_walls(setup)
    except OSError as error:
        frames.send(control, {"error": str(error)})
        return
    if setup["walls"] == "namespaces":  # after the change of user, which clears it
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    for name in WARM.split():
        __import__(name)
    frames.send(control, {"nested": nested})
    isolated = setup["walls"] != "none"
    while True:
        try:
            kind, channels, _, _ = socket.recv_fds(control, 1, 1)
            if kind == b"k":  # for a run that has ended meanwhile
                continue
            request, blobs = frames.receive(control)
        except (EOFError, ConnectionError):
            return
        reply, outputs = one_run(control, request, blobs, channels, nested, isolated)
        for channel in channels:
            os.close(channel)
        frames.send(control, reply, outputs)
        if isolated and not nested:
            return


def _large_stack(setup: dict) -> None:
    """The main thread's stack limit is read at exec, so a larger one takes a second exec."""
    wanted = 64 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if setup.get("stacked") or soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    flags = ["-s", "-P", "-B"]
    os.execv(sys.executable, [sys.executable, *flags, sys.argv[0], json.dumps({**setup, "stacked": True})])


def raise_walls(setup: dict) -> bool:
    """Put this process behind its walls; True when every run can have namespaces of its own in addition."""
    if setup["walls"] == "none":
        return False
    if setup["walls"] == "namespaces":
        _build_root(setup)
    elif setup["own_proc"]:
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    if os.getuid() == 0:
        # Limits on processes do not hold for root, and root of the machine is more than a program should be.
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        kernel.map_user(NOBODY, NOBODY)
    return _can_nest()


def _can_nest() -> bool:
    try:
        pid = kernel.fork_into(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
    except OSError:
        return False
    if pid == 0:
        with contextlib.suppress(OSError):
            supervise.private_mounts(1 << 20)
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _build_root(setup: dict) -> None:
    """A root folder of only what programs need, read-only; no network; processes of our own from 1 on.

    Returns in a child, which is process 1; the parent stays to pass on its end.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if uid == 0:
        kernel.unshare(flags)
    else:
        kernel.unshare(flags | kernel.CLONE_NEWUSER)
        kernel.map_user(uid, gid)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # The new root hides what lies below /tmp, so all sources are opened before.
    sources = [(path, os.open(path, os.O_PATH)) for path in setup["visible"] if os.path.exists(path)]
    devices = [(f"/dev/{name}", os.open(f"/dev/{name}", os.O_PATH)) for name in DEVICES]
    root = "/tmp"
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, "size=1m,mode=755")
    links = dict(setup["links"])
    for path, target in links.items():
        os.symlink(target, root + path)
    for path, source in sources:
        _place(root + path, os.path.isdir(f"/proc/self/fd/{source}"))
        kernel.bind_read_only(f"/proc/self/fd/{source}", root + path)
    for folder in ("/proc", "/tmp", "/dev/shm"):
        os.makedirs(root + folder, exist_ok=True)
    for path, source in devices:
        _place(root + path, False)
        kernel.mount(f"/proc/self/fd/{source}", root + path, "", kernel.MS_BIND)
    os.symlink("/proc/self/fd", root + "/dev/fd")
    for _, source in (*sources, *devices):
        os.close(source)
    pid = kernel.fork_into(kernel.CLONE_NEWPID)
    if pid:
        os.close(setup["control"])
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    kernel.mount("proc", root + "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.pivot_root(root)
    read_only = struct.pack("QQQQ", 1, 0, 0, 0)
    size = ctypes.c_size_t(len(read_only))
    kernel.syscall(kernel.MOUNT_SETATTR, ctypes.c_int(-100), b"/", ctypes.c_uint(0), read_only, size)


def _place(path: str, is_folder: bool) -> None:
    if is_folder:
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w"):
        pass


def one_run(
    control: socket.socket, request: dict, blobs: list[bytes], channels: list[int], nested: bool, isolated: bool
) -> tuple[dict, list[bytes]]:
    """Run one program under a supervisor of its own and return the supervisor's reply."""
    ours, theirs = socket.socketpair()
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
    try:
        pid = kernel.fork_into(flags) if nested else os.fork()
    except OSError as error:
        return {"status": "refused", "reason": str(error)}, []
    if pid == 0:
        try:
            ours.close()
            control.close()
            reply, outputs = supervise.supervise(request, blobs, channels, nested, isolated)
            frames.send(theirs, reply, outputs)
        except BaseException:  # the child must not run on in the loop of its parent
            with contextlib.suppress(OSError):
                frames.send(theirs, {"status": "refused", "reason": traceback.format_exc(limit=-2)})
        finally:
            os._exit(0)
    theirs.close()
    ready = select.select([ours, control], [], [])[0]
    if ours not in ready:  # nobody waits for this run any more: b"k", or the end of the host
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        control.recv(1)
        return {"status": "refused", "reason": "it was stopped", "stopped": True}, []
    try:
        reply, outputs = frames.receive(ours)
    except (EOFError, ConnectionError):
        reply, outputs = {"status": "refused", "reason": "the supervisor was killed"}, []
    ours.close()
    os.waitpid(pid, 0)
    return reply, outputs


if __name__ == "__main__":
    main()
