# ruff: noqa: E501 (programs, one a line)
"""Attacks on the code reward. Each program earns its point only if its attack succeeds: then it solves the problem.

So `right` means an escape, a leak or a forged verdict. After each, the host's file, process and socket are looked at.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from r1kit.rewards.code import grade_code
from r1kit.rewards.code_tests import CodeTests
from r1kit.sandbox import Sandbox, SandboxUnavailable

ADD = CodeTests(stdio=(("20 22\n", "42\n"), ("5 6\n", "11\n")), seconds=0.5, total_seconds=6, memory_mb=128)
ADD_CALL = CodeTests(
    calls=(([20, 22], 42), ([5, 6], 11)), entry_point="add", seconds=0.5, total_seconds=2, memory_mb=128
)
ADD_ASSERTS = CodeTests(
    asserts="def check(candidate):\n    assert candidate(20, 22) == 42\n    assert candidate(5, 6) == 11\n",
    entry_point="add",
    total_seconds=2,
    memory_mb=128,
)
ADD_NEAR = CodeTests(
    asserts="assert abs(add(20, 22) - 42) < 1e-6\nassert abs(add(5, 6) - 11) < 1e-6",
    entry_point="add",
    total_seconds=2,
    memory_mb=128,
)
SOLVE = "\nprint(sum(map(int, input().split())))\n"
LIBC = """
import ctypes, os, sys, struct
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def sys_(number, *args): return must(libc.syscall(ctypes.c_long(number), *args))
"""

# Programs that do something forbidden and then solve the problem. HOST_* are filled in with the host's own.
FORBIDDEN = {
    "read a file of the host": "open('HOST_FILE').read()",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read /etc/shadow": "open('/etc/shadow').read()",
    "read the host's home": "import os; assert os.listdir('HOST_HOME') not in ([], ['.pyenv'])",
    "read this test": "open('HOST_TEST').read()",
    "find the tests by name": (
        "import os\nfound = [f for r, _, n in os.walk('/tmp') for f in n if 'main.py' not in f]\nassert found"
    ),
    "write a file of the host": "open('HOST_FILE', 'w').write('owned')",
    "write to /usr": "open('/usr/bin/owned', 'w').write('x')",
    "write to /": "open('/owned', 'w').write('x')",
    "write to /dev": "open('/dev/owned', 'w').write('x')",
    "write to the sandbox's own code": (
        "import glob\nfor p in glob.glob('/r1kit-sandbox/*.py') + ['HOST_SANDBOX/supervise.py']: open(p, 'a').write('#')"
    ),
    "write to the interpreter": "import os; open(os.__file__, 'a').write('#')",
    "remove the interpreter": "import os; os.remove(os.__file__)",
    "write to /proc/sys": "open('/proc/sys/kernel/hostname', 'w').write('owned')",
    "sysrq": "open('/proc/sysrq-trigger', 'w').write('h')",
    "symlink out of /tmp": "import os; os.symlink('HOST_FILE', '/tmp/link'); open('/tmp/link').read()",
    "symlink and write": "import os; os.symlink('HOST_FILE', 'x'); open('x', 'w').write('owned')",
    "hard link out of /tmp": "import os; os.link('/usr/bin/env', '/tmp/env')",
    "dot dot": "open('../../../../HOST_FILE').read()",
    "through /proc/1/root": "open('/proc/1/root/HOST_FILE').read()",
    "through /proc/1/cwd": "import os; os.listdir('/proc/1/cwd/')",
    "process 1's memory": "open('/proc/1/mem', 'rb+').read(1)",
    "process 1's maps": "assert open('/proc/1/maps').read()",
    "process 1's environment": "assert open('/proc/1/environ').read()",
    "process 1's descriptors": "import os; os.listdir('/proc/1/fd')",
    "a stolen descriptor": (
        "import os\nfor fd in range(3, 200):\n    try: os.fstat(fd)\n    except OSError: continue\n    break\n"
        "else: raise OSError('no descriptor')\nassert os.readlink(f'/proc/self/fd/{fd}').startswith(('socket', 'pipe'))"
    ),
    "the host's environment": "import os; assert os.environ['R1KIT_CANARY']",
    "see the host's processes": "import os; assert sum(n.isdigit() for n in os.listdir('/proc')) > 4",
    "signal the host": "import os; os.kill(HOST_PID, 9)",
    "signal the parent": "import os, time; os.kill(os.getppid(), 9); time.sleep(.1); assert os.getppid() != 1",
    "stop process 1": "import os, signal, time; os.kill(1, signal.SIGSTOP); time.sleep(30)",
    "signal every process": "import os, time\nos.kill(-1, 9)\ntime.sleep(.2)\nraise SystemExit(9)",
    "signal the group": "import os; os.killpg(0, 9)",
    "connect to the host": "import socket; socket.create_connection(('127.0.0.1', HOST_PORT), 2)",
    "connect outside": "import socket; socket.create_connection(('1.1.1.1', 53), 2)",
    "name look-up": "import socket; socket.getaddrinfo('example.com', 80)",
    "UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', HOST_PORT))",
    "raw socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "kernel crypto socket": "import socket; socket.socket(38, socket.SOCK_SEQPACKET)",
    "virtual machine socket": "import socket; socket.socket(40, socket.SOCK_STREAM)",
    "the host's abstract socket": ("import socket; socket.socket(socket.AF_UNIX).connect('\\0HOST_ABSTRACT')"),
    "listen": "import socket; socket.socket().bind(('127.0.0.1', 0))",
    "setuid program": "import subprocess; assert subprocess.run(['su', '-c', 'true']).returncode == 0",
    "become root": "import os; os.setuid(0)",
    "own setuid file": "import os\nopen('s', 'w').close()\nos.chown('s', 0, 0)\nos.chmod('s', 0o4755)",
    "chroot": "import os; os.chroot('/tmp')",
    "device node": "import os; os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0))",
    "kernel memory": "open('/dev/mem', 'rb').read(1)",
    "kernel log": "open('/dev/kmsg').read(1)",
    "a disk": "import glob; open((glob.glob('/dev/[svn][dbv]*') or ['/dev/none'])[0], 'rb').read(1)",
    "control groups": "import os; os.mkdir('/sys/fs/cgroup/owned')",
    "terminal input": "import fcntl, termios\nfor c in b'ls\\n': fcntl.ioctl(0, termios.TIOCSTI, bytes([c]))",
    "ptrace the parent": LIBC + "must(libc.ptrace(16, os.getppid(), 0, 0))",
    "ptrace a child": LIBC + "must(libc.ptrace(0, 0, 0, 0))",
    "process_vm_readv": LIBC + "b = ctypes.create_string_buffer(32); sys_(310, 1, b, 1, b, 1, 0)",
    "new user namespace": LIBC + "must(libc.unshare(0x10000000))",
    "clone into namespaces": LIBC + "p = sys_(56, ctypes.c_long(0x10000011), 0, 0, 0, 0)\nif p == 0: os._exit(0)",
    "clone3 into namespaces": LIBC
    + "a = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0); sys_(435, a, ctypes.c_size_t(64))",
    "enter a namespace": LIBC + "must(libc.setns(os.open('/proc/1/ns/mnt', 0), 0))",
    "mount": LIBC + "must(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "unmount": LIBC + "must(libc.umount2(b'/tmp', 2))",
    "unmount /proc": LIBC + "must(libc.umount2(b'/proc', 2))",
    "new mount interface": LIBC + "sys_(430, b'tmpfs', 0)",
    "pivot_root": LIBC + "sys_(155, b'/tmp', b'/tmp')",
    "bpf": LIBC + "sys_(321, 0, ctypes.create_string_buffer(128), 128)",
    "perf": LIBC + "sys_(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "userfaultfd": LIBC + "sys_(323, 1)",
    "io_uring": LIBC + "sys_(425, 1, ctypes.create_string_buffer(256))",
    "keyrings": LIBC + "sys_(250, 0, -3, 1)",
    "load a module": LIBC + "sys_(175, b'x', 1, b'')",
    "kexec": LIBC + "sys_(246, 0, 0, None, 0)",
    "reboot": LIBC + "sys_(169, 0xfee1dead, 672274793, 0, None)",
    "open by handle": LIBC + "sys_(304, -100, ctypes.create_string_buffer(64), 0)",
    "pidfd_getfd": LIBC + "sys_(438, os.pidfd_open(1), 0, 0)",
    "memfd": LIBC + "sys_(319, b'x', 0)",
    "System V memory": LIBC + "sys_(29, 0, ctypes.c_size_t(1 << 30), 0o1666)",
    "x32 system calls": LIBC + "sys_(0x40000000 + 101, 0, 0, 0, 0)",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))",
    "higher priority": "import os; os.nice(-10)",
    "open files without end": "keep = [open('/dev/null') for _ in range(5000)]",
}

# Programs that eat something without end; each must end at a limit.
GREEDY = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb that insists": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "threads without end": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "memory bomb": "a = []\nwhile True: a.append(bytearray(1 << 24))",
    "memory of many processes": (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        a = bytearray(90 << 20)\n        time.sleep(9)\n"
        "time.sleep(9)"
    ),
    "shared memory of many processes": (
        "import mmap, os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        m = mmap.mmap(-1, 90 << 20)\n"
        "        for i in range(0, len(m), 4096): m[i] = 1\n        time.sleep(9)\ntime.sleep(9)"
    ),
    "disk fill": "n = 0\nwhile True:\n    open(f'f{n}', 'wb').write(bytes(1 << 20)); n += 1",
    "one large file": "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()",
    "files without end": "n = 0\nwhile True:\n    open(f'e{n}', 'w').close(); n += 1",
    "/dev/shm fill": "f = open('/dev/shm/f', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()",
    "output flood": "while True: print('x' * 100000)",
    "error flood": "import sys\nwhile True: sys.stderr.write('x' * 100000)",
    "endless loop": "while True: pass",
    "endless loop deaf to signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass"
    ),
    "sleep": "import time; time.sleep(1000)",
    "sleep in a process that left the group": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    time.sleep(1000)\n"
        "time.sleep(1000)"
    ),
    "giant power": "print(9 ** 9 ** 9)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
    "zip of zeros": "import zlib\nd = zlib.compress(bytes(1 << 26))\na = [zlib.decompress(d) for _ in range(9)]",
}

# Programs that do not know the answer and try to be told right.
FORGED = {
    "exit 0": "raise SystemExit(0)",
    "os._exit": "import os; os._exit(0)",
    "exit in a handler": "import atexit, os; atexit.register(os._exit, 0)",
    "print a verdict": 'print(\'right\'); print(\'PASS\'); print(\'{"status": "ok", "verdict": "right"}\')',
    "print every answer": "print('\\n'.join(map(str, range(100))))",
    "nothing": "",
    "binary output": "import os; os.write(1, bytes(range(256)) * 100)",
    "not a number": "print('nan')",
    "reply on descriptor 3": 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'{"status": "ok"}\\n\')\n    except OSError: pass',
    "a frame on every socket": (
        "import os, struct, json\nt = json.dumps({'status': 'ok', 'returncode': 0, 'seconds': 0, 'fetched': [], 'blobs': [3, 0]}).encode()\n"
        "for fd in range(1, 64):\n    try: os.write(fd, struct.pack('Q', len(t)) + t + b'42\\n')\n    except OSError: pass"
    ),
    "frames of the caller": (
        "import sys\nf = sys._getframe()\nwhile f:\n    for v in list(f.f_locals.values()):\n        if '42' in str(v)[:10000]: pass\n"
        "    if 'expected' in f.f_locals: print(f.f_locals['expected'])\n    f = f.f_back"
    ),
    "objects in memory": (
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'output' in o and 'input' in o: print(o['output']); break"
    ),
    "answers left by the run before": (
        "import os\nprint(open('/tmp/answers').read() if os.path.exists('/tmp/answers') else '')\nopen('/tmp/answers', 'w').write('42')"
    ),
    "claim that the sandbox failed": "import os\nfor fd in range(2, 64):\n    try: os.write(fd, b'r1kit sandbox: OSError')\n    except OSError: pass\nos._exit(253)",
    "kill and leave": "import os; os.kill(os.getpid(), 9)",
}

# The same against function calls and asserts: `add` never computes a sum.
FORGED_FUNCTION = {
    "equal to everything": "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef add(a, b): return E()",
    "an int equal to everything": "class E(int):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n    def __rsub__(self, o): return 0\ndef add(a, b): return E(0)",
    "true for everything": "class E:\n    def __bool__(self): return True\n    def __lt__(self, o): return True\n    def __sub__(self, o): return self\n    def __abs__(self): return self\n    def __eq__(self, o): return self\ndef add(a, b): return E()",
    "a float that is not a number": "def add(a, b): return float('nan')",
    "exit in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "exit while loading": "import sys; sys.exit(0)",
    "os._exit while loading": "import os; os._exit(0)",
    "patched built-ins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = ValueError\nbuiltins.all = lambda x: True\ndef abs(x): return 0\ndef add(a, b): return 0",
    "own checker": "def check(candidate): return True\ndef add(a, b): return 0",
    "raised assertion": "def add(a, b): raise AssertionError('passed')",
    "system exit raised": "def add(a, b): raise SystemExit(0)",
    "a patched driver": "import sys\nm = sys.modules['__main__']\nm.act = lambda *a: True\ndef add(a, b): return True",
    "a patched codec": "import data\ndata._encode = lambda v, r: {'eval': '42'}\ndef add(a, b): return 0",
    "an answer before the question": "import os\nos.write(3, b'{\"value\": true}\\n' * 9)\ndef add(a, b): return 0",
    "an answer that is no JSON": "import os\ndef add(a, b): os.write(3, b'\\xff\\xfe\\n'); return 0",
    "an answer of deep brackets": "import os\ndef add(a, b): os.write(3, b'[' * 200000 + b'\\n'); return 0",
    "an answer without end": "import os\ndef add(a, b):\n    while True: os.write(3, b'1' * 65536)",
    "an answer of the wrong shape": "import os\ndef add(a, b): os.write(3, b'[1, 2]\\n'); return 0",
    "a claimed reference": "import os\ndef add(a, b): os.write(3, b'{\"dict\": [[\"value\", {\"ref\": 0}]]}\\n'); return 0",
    "a claimed error": "import os\ndef add(a, b): os.write(3, b'{\"dict\": [[\"error\", \"SystemExit\"], [\"text\", \"0\"]]}\\n'); return 0",
    "a closed channel": "import os\nos.close(3)\ndef add(a, b): return 0",
    "an endless answer list": "def add(a, b): return [0] * 10**8",
    "a generator without end": "import itertools\ndef add(a, b): return itertools.count()",
    "reading the caller": "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        if 'expected' in f.f_locals: return f.f_locals['expected']\n        f = f.f_back",
    "reading the checker's files": "import glob\ndef add(a, b): return int(open(glob.glob('/tmp/*test*')[0]).read())",
    "no function": "x = 1",
    "syntax error": "def add(a, b: return 42",
}  # fmt: skip


@pytest.fixture(scope="module", params=["bwrap", "namespaces"])
def sandbox(request):
    try:
        with Sandbox(walls=request.param) as sandbox:
            yield sandbox
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A file, a process, a listener and an environment variable of the host that attacks aim at."""
    secret = tmp_path_factory.mktemp("host") / "secret.txt"
    secret.write_text("secret")
    secret.chmod(0o666)
    os.environ["R1KIT_CANARY"] = "secret"
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0r1kit-{os.getpid()}")
        abstract.listen()
        listener.settimeout(0)
        names = {
            "HOST_FILE": str(secret),
            "HOST_TEST": os.path.abspath(__file__),
            "HOST_HOME": os.path.expanduser("~"),
            "HOST_PID": str(victim.pid),
            "HOST_PORT": str(listener.getsockname()[1]),
            "HOST_ABSTRACT": f"r1kit-{os.getpid()}",
            "HOST_SANDBOX": os.path.dirname(os.path.abspath(sys.modules["r1kit.sandbox"].__file__ or "")),
        }
        yield names, secret, victim, listener
    del os.environ["R1KIT_CANARY"]
    victim.kill()
    victim.wait()


def unharmed(host) -> None:
    _, secret, victim, listener = host
    assert secret.read_text() == "secret"
    assert victim.poll() is None
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_act_fails(name, sandbox, host):
    code = FORBIDDEN[name]
    for word, value in host[0].items():
        code = code.replace(word, value)
    judged = grade_code(code + SOLVE, ADD, sandbox)
    assert judged.verdict == "wrong" and judged.passed == 0, judged
    unharmed(host)


@pytest.mark.parametrize("name", GREEDY)
def test_greed_ends_at_a_limit(name, sandbox, host):
    one_test = CodeTests(stdio=ADD.stdio[:1], seconds=0.5, total_seconds=6, memory_mb=128)
    judged = grade_code(GREEDY[name] + SOLVE, one_test, sandbox)
    assert judged.verdict == "wrong" and judged.passed == 0, judged
    unharmed(host)


@pytest.mark.parametrize("name", FORGED)
def test_forged_output_is_wrong(name, sandbox):
    judged = grade_code(FORGED[name], ADD, sandbox)
    assert judged.verdict == "wrong" and judged.passed == 0, judged


@pytest.mark.parametrize("tests", [ADD_CALL, ADD_ASSERTS, ADD_NEAR], ids=["calls", "asserts", "near"])
@pytest.mark.parametrize("name", FORGED_FUNCTION)
def test_forged_value_is_wrong(name, tests, sandbox):
    judged = grade_code(FORGED_FUNCTION[name], tests, sandbox)
    assert judged.verdict == "wrong" and judged.passed == 0, judged


def test_honest_programs_are_right_after_all_that(sandbox):
    assert grade_code(SOLVE, ADD, sandbox).verdict == "right"
    for tests in (ADD_CALL, ADD_ASSERTS, ADD_NEAR):
        assert grade_code("def add(a, b): return a + b", tests, sandbox).verdict == "right"


def children() -> dict[int, str]:
    """Process id and state of this process's children."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if parent == str(os.getpid()):
            found[int(name)] = state
    return found


def test_no_process_or_descriptor_is_left_behind(sandbox):
    before, descriptors = children(), len(os.listdir("/proc/self/fd"))
    assert "Z" not in before.values()
    with Sandbox(walls=sandbox.walls) as closed:
        for name in ("fork bomb", "sleep in a process that left the group", "output flood"):
            one_test = CodeTests(stdio=ADD.stdio[:1], seconds=0.5, total_seconds=6, memory_mb=128)
            assert grade_code(GREEDY[name], one_test, closed).verdict == "wrong"
        for name in ("os._exit in the call", "an answer without end"):
            assert grade_code(FORGED_FUNCTION[name], ADD_CALL, closed).verdict == "wrong"
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
