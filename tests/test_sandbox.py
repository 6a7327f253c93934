# ruff: noqa: E501 (programs, one a line)
"""The sandbox keeps programs in, takes their measure, and says when it is itself at fault."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from r1kit.sandbox import Limits, Sandbox, SandboxUnavailable
from r1kit.sandbox import sandbox as module

QUICK = Limits(seconds=1, wall_seconds=4, memory_mb=128)


@pytest.fixture(scope="module", params=["bwrap", "namespaces", "none"])
def sandbox(request):
    try:
        with Sandbox(QUICK, walls=request.param) as sandbox:
            yield sandbox
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def isolated():
    try:
        with Sandbox(QUICK) as sandbox:
            yield sandbox
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def python(sandbox, source, stdin="", **more):
    return sandbox.run(["python", "main.py"], {"main.py": source, **more.pop("files", {})}, stdin, **more)


def test_a_program_reads_files_and_input_and_writes_outputs(sandbox):
    source = "import sys\nprint(open('data/a.txt').read() + input())\nprint('é', file=sys.stderr)\nopen('out', 'wb').write(b'\\x00')"
    ran = python(sandbox, source, "two\n", files={"data/a.txt": "one "}, fetch=["out", "missing"])
    assert (ran.status, ran.returncode, ran.stdout, ran.stderr) == ("ok", 0, "one two\n", "é\n")
    assert ran.files == {"out": b"\x00"}


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("raise SystemExit", "ok", 0),
        ("raise SystemExit(3)", "error", 3),
        ("raise SystemExit('said')", "error", 1),
        ("1 / 0", "error", 1),
        ("import os; os.abort()", "error", -6),
        ("import sys; print('x'); sys.stdout.close()", "ok", 0),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()", "ok", 0),
    ],
)
def test_exit_codes_are_pythons(sandbox, source, status, code):
    ran = python(sandbox, source)
    assert (ran.status, ran.returncode) == (status, code)


def test_python_runs_as_a_script(sandbox):
    source = (
        "import sys, random, atexit, helper\natexit.register(print, 'last')\n"
        "if __name__ == '__main__': print(sys.argv, helper.X, sys.modules['__main__'].random is random)\n"
        "exit()"
    )
    ran = sandbox.run(["python", "main.py", "a"], {"main.py": source, "helper.py": "X = 5"})
    assert ran.stdout == "['main.py', 'a'] 5 True\nlast\n", ran.stderr


def test_tracebacks_name_the_program(sandbox):
    ran = python(sandbox, "def f():\n    return [][1]\nf()")
    assert 'File "main.py", line 2, in f' in ran.stderr and ran.stderr.endswith("IndexError: list index out of range\n")


def test_limits(sandbox):
    assert python(sandbox, "while True: pass").status == "timeout"
    assert python(sandbox, "import time; time.sleep(60)", limits=replace(QUICK, wall_seconds=0.3)).status == "timeout"
    assert python(sandbox, "a = bytearray(1 << 31)").status == "memory"
    flood = python(sandbox, "while True: print('x' * 1000)", limits=replace(QUICK, output_bytes=5000))
    assert flood.status == "output" and len(flood.stdout) == 5000
    exact = python(sandbox, "print('x' * 4999)", limits=replace(QUICK, output_bytes=5000))
    assert exact.status == "ok" and len(exact.stdout) == 5000


def test_runs_do_not_see_each_other(sandbox):
    python(sandbox, "open('left', 'w').write('x')\nimport random; random.seed(3)")
    assert python(sandbox, "import os; print(os.listdir('.'))").stdout == "['main.py']\n"


def test_large_input_and_output_do_not_block(sandbox):
    text = "abc\n" * 200_000
    ran = python(
        sandbox, "import sys; sys.stdout.write(sys.stdin.read())", text, limits=replace(QUICK, output_bytes=1 << 21)
    )
    assert ran.status == "ok" and ran.stdout == text
    assert python(sandbox, "print(1)", text).stdout == "1\n"


def test_stop_ends_a_run_and_keeps_the_worker(sandbox):
    pids = [worker.process.pid for worker in sandbox._idle]
    running = sandbox.start(["python", "main.py"], {"main.py": "import time; time.sleep(60)"})
    assert running.stop().stopped
    assert python(sandbox, "print(1)").stdout == "1\n"
    assert [worker.process.pid for worker in sandbox._idle] == pids


def test_stop_of_a_run_that_ended(sandbox):
    running = sandbox.start(["python", "main.py"], {"main.py": "print(1)"})
    threading.Event().wait(0.3)
    assert running.stop().status in ("ok", "refused")
    assert python(sandbox, "print(2)").stdout == "2\n"


def test_channel_is_descriptor_3(sandbox):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            running = sandbox.start(
                ["python", "main.py"], {"main.py": "import os; os.write(3, os.read(3, 9)[::-1])"}, channel=theirs
            )
        ours.sendall(b"abc")
        ours.settimeout(10)
        assert ours.recv(9) == b"cba"
    assert running.wait().status == "ok"


def test_many_threads(sandbox):
    results = {}

    def work(number):
        results[number] = python(sandbox, f"print({number} * int(input()))", "3").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{3 * number}\n" for number in range(6)}


def test_a_killed_worker_is_refused_and_replaced(sandbox):
    running = sandbox.start(["python", "main.py"], {"main.py": "import time; time.sleep(60)"})
    os.killpg(running._worker.process.pid, 9)
    ran = running.wait()
    assert ran.status == "refused" and "no answer" in ran.reason and not ran.stopped
    assert python(sandbox, "print(1)").stdout == "1\n"


def test_an_idle_worker_that_died_is_replaced(sandbox):
    for worker in sandbox._idle:
        os.killpg(worker.process.pid, 9)
        worker.process.wait()
    assert python(sandbox, "print(1)").stdout == "1\n"


def test_a_failed_setup_is_refused(isolated):
    ran = python(isolated, "print(1)", limits=replace(QUICK, file_mb=1 << 50))
    assert ran.status == "refused" and ran.reason and not ran.stopped


def test_unknown_programs_are_errors(sandbox):
    ran = sandbox.run(["no-such-program"])
    assert (ran.status, ran.returncode) == ("error", 127)


def test_every_layer_is_on(isolated):
    """Attacks fail at the first layer they meet; this looks at each one."""
    status = dict(
        line.split(":\t", 1)
        for line in python(isolated, "print(open('/proc/self/status').read())").stdout.split("\n")
        if ":\t" in line
    )
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()[0] != "0") == ("1", "2", True)
    mounts = python(isolated, "print(open('/proc/self/mounts').read())").stdout.strip().splitlines()
    writable = {line.split()[1] for line in mounts if "rw" in line.split()[3].split(",")}
    assert writable <= {"/tmp", "/dev/shm", "/proc"} | {line for line in writable if line.startswith("/dev/")}
    namespaces = (
        "import os; print(*(os.stat(f'/proc/self/ns/{n}').st_ino for n in ('pid', 'mnt', 'net', 'ipc', 'uts', 'user')))"
    )
    inside = python(isolated, namespaces).stdout.split()
    outside = [str(os.stat(f"/proc/self/ns/{name}").st_ino) for name in ("pid", "mnt", "net", "ipc", "uts", "user")]
    assert not set(inside) & set(outside)


def test_landlock_alone(tmp_path):
    """In a child, where the file system has no other guard."""
    (tmp_path / "open").mkdir()
    source = (
        "import sys, socket; sys.path.insert(0, sys.argv[1]); import kernel\n"
        "kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\nif not kernel.landlock(['open']): sys.exit(77)\n"
        "open('open/a', 'w').write('x')\n"
        "for act in (lambda: open('b', 'w'), lambda: open('before', 'a'), lambda: __import__('os').remove('before')):\n"
        "    try: act()\n    except PermissionError: continue\n    sys.exit(1)\n"
    )
    (tmp_path / "before").write_text("x")
    folder = os.path.dirname(os.path.abspath(module.__file__))
    done = subprocess.run([sys.executable, "-c", source, folder], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr


def test_fetch_brings_no_links(isolated):
    source = (
        "import os; os.symlink('/usr/bin/env', 'link'); os.mkfifo('pipe'); os.mkdir('folder'); open('ok', 'w').close()"
    )
    ran = python(isolated, source, fetch=["link", "pipe", "folder", "ok"])
    assert ran.files == {"ok": b""}


def test_total_memory_of_many_processes(isolated):
    source = "import os, time\nfor _ in range(6):\n    if not os.fork(): a = bytearray(60 << 20); time.sleep(20)\ntime.sleep(20)"
    assert python(isolated, source).status == "memory"


def test_a_daemon_ends_with_its_run(isolated):
    source = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nprint('done')"
    ran = python(isolated, source)
    assert (ran.status, ran.stdout) == ("ok", "done\n") and ran.seconds < 3


def test_several_processes_and_threads_work(isolated):
    source = (
        "from multiprocessing import Pool\nfrom concurrent.futures import ThreadPoolExecutor\nimport asyncio\n"
        "def f(x): return x * x\nif __name__ == '__main__':\n    with Pool(2) as pool: print(sum(pool.map(f, range(5))))\n"
        "    with ThreadPoolExecutor(4) as pool: print(sum(pool.map(f, range(5))))\n    print(asyncio.run(asyncio.sleep(0, 7)))\n"
    )
    assert python(isolated, source, limits=replace(QUICK, memory_mb=512)).stdout == "30\n30\n7\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_cpp_compiles_inside(isolated):
    source = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
    limits = Limits(seconds=20, wall_seconds=60, memory_mb=1024)
    built = isolated.run(["g++", "-o", "main", "main.cpp"], {"main.cpp": source}, fetch=["main"], limits=limits)
    assert built.status == "ok", built.stderr
    assert isolated.run(["./main"], {"main": built.files["main"]}, "20 22").stdout == "42"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_file_names_stay_inside(isolated, name):
    with pytest.raises(ValueError, match="leaves the folder"):
        isolated.run(["python", "main.py"], {name: "x"})


def test_visible_folders(isolated, tmp_path_factory):
    with pytest.raises(ValueError, match="does not exist"):
        Sandbox(visible=["/no/such/folder"])


def test_no_isolation_is_refused_with_what_to_install(monkeypatch):
    def fail(*_):
        raise OSError("not here")

    monkeypatch.setattr(module, "_start", fail)
    with pytest.raises(SandboxUnavailable, match=r"apt-get install bubblewrap.*--unsafe-code"):
        Sandbox()


def test_bwrap_missing_falls_back(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    try:
        with Sandbox(QUICK) as sandbox:
            assert sandbox.walls == "namespaces"
    except SandboxUnavailable as error:
        assert "bwrap is not installed" in str(error)


def test_a_closed_sandbox_refuses(isolated):
    sandbox = Sandbox(unsafe=True)
    sandbox.close()
    assert sandbox.run(["true"]).status == "refused"


def test_limits_are_checked():
    with pytest.raises(ValueError, match="memory_mb is 0; give a limit above 0"):
        Limits(memory_mb=0)
