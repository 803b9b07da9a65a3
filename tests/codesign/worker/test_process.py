"""The parent's side against children that misbehave; none of them loads TVM."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from codesign.worker import Failure, Reply, Worker

_ECHO = """
import os, sys, time
from codesign.worker import frames
answers = os.dup(1)
os.dup2(2, 1)
def answer(header, blobs=()):
    for piece in frames.encode(header, blobs):
        os.write(answers, piece)
while True:
    decoder, frame = frames.Decoder(), None
    while frame is None:
        data = os.read(0, decoder.needed())
        if not data:
            sys.exit()
        frame = decoder.feed(data)
    op, params = frame.header["op"], frame.header["params"]
    if op == "die":
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
    if op == "sleep":
        time.sleep(60)
    if op == "garbage":
        os.write(answers, b"Segmentation fault (not really)\\n")
        time.sleep(60)
    if op == "half":
        os.write(answers, b"CdW1\\x10")
        os._exit(0)
    if op == "noise":
        print("x" * 100_000, flush=True)
    if op == "error":
        answer({"ok": False, "error": "ValueError: bad"})
    else:
        answer({"ok": True, "result": [op, params, os.getpid()]}, frame.blobs)
"""


class _Fake(Worker):
    def _command(self):
        return [sys.executable, "-c", _ECHO]


@pytest.fixture
def worker():
    with _Fake() as worker:
        yield worker


def test_requests_and_answers_with_large_blobs(worker):
    blobs = [os.urandom(3_000_000), b"", b"x"]
    reply = worker.request("echo", {"a": [1]}, blobs, deadline=20)
    assert isinstance(reply, Reply)
    assert reply.result[:2] == ["echo", {"a": [1]}]
    assert list(reply.blobs) == blobs
    assert worker.request("echo").result[2] == worker.pid
    assert worker.generation == 1


def test_an_error_leaves_the_process_alive(worker):
    pid = worker.request("echo").result[2]
    assert worker.request("error") == Failure("error", "ValueError: bad")
    assert worker.request("echo").result[2] == pid


def test_prints_do_not_disturb(worker):
    assert isinstance(worker.request("noise"), Reply)


def test_death_is_a_value_with_the_last_words(worker):
    failure = worker.request("die")
    assert isinstance(failure, Failure)
    assert failure.kind == "crash"
    assert "exit status 3" in failure.text
    assert "last words" in failure.text
    assert isinstance(worker.request("echo"), Reply)
    assert worker.generation == 2


def test_killed_in_the_middle(worker):
    pid = worker.request("echo").result[2]
    killer = subprocess.Popen(
        [sys.executable, "-c", f"import os,time; time.sleep(0.3); os.kill({pid}, 9)"]
    )
    failure = worker.request("sleep", deadline=20)
    killer.wait()
    assert failure.kind == "crash"
    assert "SIGKILL" in failure.text


def test_killed_between_requests_starts_another(worker):
    pid = worker.request("echo").result[2]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    reply = worker.request("echo")
    assert reply.result[2] != pid


def test_the_deadline_holds_and_the_process_is_gone(worker):
    pid = worker.request("echo").result[2]
    start = time.monotonic()
    failure = worker.request("sleep", deadline=0.3)
    assert time.monotonic() - start < 5
    assert failure.kind == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_does_not_read_is_stopped_at_the_deadline(worker):
    worker.start()
    os.kill(worker.pid, signal.SIGSTOP)
    failure = worker.request("echo", blobs=[bytes(10_000_000)], deadline=0.3)
    assert failure.kind == "timeout"


@pytest.mark.parametrize(("op", "kind"), [("garbage", "protocol"), ("half", "crash")])
def test_no_answer_at_all(worker, op, kind):
    assert worker.request(op, deadline=20).kind == kind
    assert isinstance(worker.request("echo"), Reply)


def test_a_program_that_does_not_start():
    class Missing(Worker):
        def _command(self):
            return ["/nonexistent/python"]

    assert Missing().request("ping").kind == "crash"


def test_an_interrupt_ends_the_conversation(worker, monkeypatch):
    worker.start()
    pid = worker.pid

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("codesign.worker.process._read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.request("echo")
    monkeypatch.undo()
    assert worker.request("echo").result[2] != pid


def test_the_child_dies_with_its_parent():
    program = """
        import os, time
        from codesign.worker import Worker
        worker = Worker()
        worker._spawn()
        print(worker._process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    pid = int(done.stdout)
    for _ in range(100):
        if _is_gone(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def _is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
