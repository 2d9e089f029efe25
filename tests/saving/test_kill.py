"""Checkpoints of processes that are killed at any moment or write at the same time: the file is always a complete state."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cero_alloc import checkpoint
from helpers.scale import scaled

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="nothing can be forked or killed here"
)

# Imports the package once and forks a writer for every line of its input. All processes write to one pipe, in writes of
# less than a page, which the system does not interleave.
SERVER = """
import os, random, sys
import numpy as np
from cero_alloc import checkpoint

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def play(path, who, first, last, most, durable, aloud):
    rng = random.Random(f"{who} {first}")
    for k in range(first, last):
        state = {"who": who, "k": k, "fill": np.full(rng.randrange(most), k), "list": [k] * 300}
        if aloud:
            say("began", k)
        checkpoint.write(path, state, durable=durable)
        if aloud:
            say("finished", k)

say("ready")
for line in sys.stdin:
    order, *words = line.split()
    if order == "wait":
        pid, status = os.wait()
        say("ended", os.waitstatus_to_exitcode(status))
        continue
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            path, who, *numbers = words
            play(path, who, *map(int, numbers))
            code = 0
        finally:
            os._exit(code)
    say("pid", pid)
"""


class Server:
    """Talks to the process that forks the writers."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.until("ready")

    def until(self, word):
        """Return the lines up to the first that begins with ``word``, split into words."""
        lines = []
        for line in self.process.stdout:
            lines.append(line.split())
            if lines[-1][0] == word:
                return lines
        raise AssertionError(f"the server ended before it said {word}")

    def order(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server():
    talking = Server()
    yield talking
    talking.close()


def whole(path):
    """Return the counter of the state in a file, after a check that its parts belong together."""
    state = checkpoint.read(path)
    assert (state["fill"] == state["k"]).all()
    assert state["list"] == [state["k"]] * 300
    return state["who"], state["k"]


def test_a_killed_writer_leaves_one_of_the_last_two_states(server, tmp_path):
    path, rng, known = tmp_path / "state", random.Random(scaled(1, 2)), -1
    checkpoint.write(path, {"who": "parent", "k": -1, "fill": np.empty(0), "list": [-1] * 300})
    within = 0
    for turn in range(scaled(20, 400)):
        most = rng.choice((1_000, 100_000, 600_000))  # 8 bytes each
        server.order("write", path, "child", known + 1, known + 10_000, most, int(turn % 4 == 0), 1)
        lines = server.until("pid")
        pid = int(lines[-1][1])
        if lines[0][0] != "began":
            lines += server.until("began")  # a busy machine may need some time
        time.sleep(rng.choice((0.001, 0.01, 0.05)) * rng.random())
        os.kill(pid, signal.SIGKILL)
        server.order("wait")
        lines += server.until("ended")
        assert lines[-1] == ["ended", str(-signal.SIGKILL)]
        began = [int(k) for word, k in lines if word == "began"]
        finished = [known, *(int(k) for word, k in lines if word == "finished")]
        allowed = {finished[-1], *began[-1:]}
        known = whole(path)[1]
        assert known in allowed
        within += len(allowed) == 2
    assert within > scaled(20, 400) // 2  # killed during a write, not before or after it
    left = [name for name in os.listdir(tmp_path) if name != "state"]
    assert left  # some left a temporary file
    for name in left:
        os.utime(tmp_path / name, (0, 0))
    checkpoint.write(path, {})
    assert os.listdir(tmp_path) == ["state"]


def test_two_writers_and_a_reader(server, tmp_path):
    path, n = tmp_path / "state", scaled(200, 2000)
    checkpoint.write(path, {"who": "parent", "k": -1, "fill": np.empty(0), "list": [-1] * 300})
    for who in ("one", "two"):
        server.order("write", path, who, 0, n, 30_000, 0, 0)  # silent, because nothing reads the pipe meanwhile
    server.order("wait")
    server.order("wait")
    last, seen, end = {"parent": -1, "one": -1, "two": -1}, set(), time.monotonic() + scaled(100, 1000)
    while n - 1 not in (last["one"], last["two"]):
        assert time.monotonic() < end
        who, k = whole(path)
        assert last[who] <= k  # no older state of a writer replaces a newer one
        last[who] = k
        seen.add((who, k))
    lines = server.until("ended") + server.until("ended")
    assert [line[1] for line in lines if line[0] == "ended"] == ["0", "0"]
    assert whole(path)[1] == n - 1
    assert len(seen) > 10
    assert os.listdir(tmp_path) == ["state"]
