"""The kernel's interfaces that isolate a process: namespaces, mounts, capabilities, Landlock and seccomp.

Standard library only: `spawner.py` loads this file by its path, in an interpreter that has no r1kit.
Sources: man pages mount_setattr(2), capset(2), landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NEW_NAMESPACES = 0x7E020000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 24, 38, 22
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

# Everywhere the same since Linux 5.1.
MOUNT_SETATTR, CLOSE_RANGE, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 436, 444, 445, 446
EPERM, EACCES, ENOSYS = 1, 13, 38

# Refused with EPERM: ways to reach other processes, to change the view of the system, to hold memory that no limit
# counts, and interfaces with a record of kernel holes. A program that computes needs none of them.
DENIED = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "keyctl": 250, "add_key": 248, "request_key": 249, "init_module": 175,
        "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320, "reboot": 169,
        "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "syslog": 103, "personality": 135,
        "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
        "fanotify_init": 300, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "uselib": 134, "lookup_dcookie": 212,
        "settimeofday": 164, "sethostname": 170, "setdomainname": 171, "vhangup": 153,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438,
        "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "keyctl": 219, "add_key": 217, "request_key": 218, "init_module": 105,
        "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294, "reboot": 142,
        "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60, "syslog": 116, "personality": 92,
        "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180,
        "fanotify_init": 262, "settimeofday": 170, "sethostname": 161, "setdomainname": 162, "vhangup": 58,
    },
}  # fmt: skip
SOCKET = {"x86_64": 41, "aarch64": 198}
CLONE = {"x86_64": 56, "aarch64": 220}
CAPSET = {"x86_64": 126, "aarch64": 91}
CLONE3 = 435
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def machine() -> str:
    """The processor's name. OSError on one whose system call numbers are not listed here."""
    name = platform.machine()
    if name not in DENIED:
        raise OSError(f"the sandbox knows the system calls of {', '.join(DENIED)}, and this is {name}")
    return name


def syscall(number: int, *arguments: object) -> int:
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    return check(result, f"system call {number}")


def check(result: int, what: str) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    zero = ctypes.c_ulong(0)
    check(LIBC.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), zero, zero), f"prctl {option}")


def unshare(flags: int) -> None:
    check(LIBC.unshare(flags), f"unshare {flags:#x}")


def fork_into(flags: int) -> int:
    """fork() whose child is in new namespaces: 0 in the child. The caller has one thread only."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    zero = ctypes.c_long(0)
    pid = LIBC.syscall(ctypes.c_long(CLONE[machine()]), ctypes.c_long(flags | 17), zero, zero, zero, zero)
    code = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(code, f"clone {flags:#x}: {os.strerror(code)}")
    return pid


def map_user(uid: int, gid: int) -> None:
    """After unshare(CLONE_NEWUSER): the user keeps its number inside."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    names = (name.encode() for name in (source, target, kind, options))
    source_b, target_b, kind_b, options_b = names
    check(
        LIBC.mount(source_b, target_b, kind_b or None, ctypes.c_ulong(flags), options_b or None),
        f"mount {source} at {target}",
    )


def bind_read_only(source: str, target: str) -> None:
    """Show `source` with everything mounted below it at `target`, without write, setuid and device access."""
    mount(source, target, "", MS_BIND | MS_REC)
    at_fdcwd, recursive, read_only_nosuid_nodev = ctypes.c_int(-100), ctypes.c_uint(0x8000), 1 | 2 | 4
    attributes = struct.pack("QQQQ", read_only_nosuid_nodev, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    syscall(MOUNT_SETATTR, at_fdcwd, target.encode(), recursive, attributes, size)


def pivot_root(new_root: str) -> None:
    """Make `new_root` the root folder and forget the old one."""
    os.chdir(new_root)
    syscall({"x86_64": 155, "aarch64": 41}[machine()], b".", b".")
    check(LIBC.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def close_from(first: int) -> None:
    syscall(CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0))


def drop_privileges() -> None:
    """No capability now, none by exec, no setuid program."""
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == -1:
            break
    LIBC.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)
    syscall(CAPSET[machine()], header, nothing)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def landlock(writable: list[str]) -> bool:
    """Let this process and its children write below `writable` only, and use no TCP. False: not in this kernel."""
    abi = LIBC.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if abi < 1:
        return False
    writes = 0b1_1111_1111_0010  # write, remove and make, without read, list and execute
    writes |= (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0)  # link across folders, truncate
    attributes = struct.pack("QQQ", writes, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    of_file = writes & (1 << 1 | 1 << 14)
    for path in writable:
        if not os.path.exists(path):
            continue
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", writes if os.path.isdir(path) else of_file, folder)
        syscall(LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(folder)
    syscall(LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)
    return True


def seccomp() -> None:
    """Refuse the system calls of DENIED, sockets, and clone() into new namespaces, from here on and in children."""
    name = machine()
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, errno = 0x80000000, 0x7FFF0000, 0x00050000
    code = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[name]), (answer, 0, 0, kill), (load, 0, 0, 0)]
    if name == "x86_64":  # the x32 numbering would go round the list
        code += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, errno | EPERM)]
    for number in DENIED[name].values():
        code += [(equal, 0, 1, number), (answer, 0, 0, errno | EPERM)]
    # clone3 has its flags in memory, where a filter cannot look; the C library falls back to clone.
    code += [(equal, 0, 1, CLONE3), (answer, 0, 0, errno | ENOSYS)]
    code += [(equal, 0, 1, SOCKET[name]), (answer, 0, 0, errno | EACCES)]
    code += [(equal, 0, 3, CLONE[name]), (load, 0, 0, 16), (any_bit, 0, 1, NEW_NAMESPACES)]
    code += [(answer, 0, 0, errno | EPERM), (answer, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    filter_ = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program))
    mode_filter, pointer = 2, ctypes.create_string_buffer(filter_)
    zero = ctypes.c_ulong(0)
    check(
        LIBC.prctl(PR_SET_SECCOMP, ctypes.c_ulong(mode_filter), pointer, zero, zero),
        "seccomp",
    )
