"""Slow, broken and too many clients, a model that takes its time, and an orderly end; over real sockets."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

import latticegnn as lg
from latticegnn.predictor import Predictor
from latticegnn.service import Limits
from latticegnn.service.server import listen

DIM = 12
GOOD = {"embeddings": [[1.0] * DIM]}
BODY = json.dumps(GOOD).encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SIZED = HEAD + b"Content-Length: %d\r\n" % len(BODY)


def dribble(port: int, head: bytes, piece: bytes, every: float = 0.05) -> tuple[bytes, float]:
    """Send a head and then a piece at a time until the service ends the connection; give its answer and the seconds."""
    start, found = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head)
        connection.settimeout(every)
        while True:
            try:
                chunk = connection.recv(65536)
                found += chunk
                if not chunk:
                    break
            except TimeoutError:
                connection.sendall(piece)
            except ConnectionResetError:
                break
            assert time.monotonic() - start < 10
    return found, time.monotonic() - start


SLOW = [
    (b"", b"", 408),  # says nothing
    (b"POST /predict HT", b"", 408),
    (HEAD, b"X-A: b\r\n", 408),  # a head without end
    (HEAD + b"Content-Length: 9000\r\n\r\n{", b" ", 408),  # a body without end
    (HEAD + CHUNKED, b"1\r\n \r\n", 408),
    (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", b" ", 404),  # goes on after its answer
    (SIZED + b"\r\n" + BODY + HEAD, b"X-A: b\r\n", 200),  # the second request on its connection
    (SIZED + b"\r\n" + BODY + HEAD + b"Content-Length: 9\r\n\r\n1", b"", 200),
]


def test_who_is_slow_is_cut_off_and_holds_up_no_one(predictor, serving, client, at_once) -> None:
    with serving(predictor, transfer_seconds=0.5, keep_alive_seconds=1) as port:
        ask = client(port)

        def others() -> list[int]:
            end = time.monotonic() + 0.5
            return [ask(GOOD)[0] for _ in iter(lambda: time.monotonic() < end, False)]

        good, *found = at_once(others, *(partial(dribble, port, head, piece) for head, piece, _ in SLOW))
    assert len(good) > 5
    assert set(good) == {200}
    for (answer, seconds), (_, _, status) in zip(found, SLOW, strict=True):
        assert 0.4 < seconds < 5
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        late = b"arrives within 0.5 s; got no end of this one by then; send it at once."
        assert (late in answer) == (status != 404)


def test_a_connection_at_rest_is_kept_for_its_time_and_a_request_on_it_has_a_new_one(predictor, serving) -> None:
    request = SIZED + b"\r\n" + BODY
    with (
        serving(predictor, transfer_seconds=0.5, keep_alive_seconds=1) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        for _ in range(2):
            connection.sendall(request[:30])
            time.sleep(0.25)
            connection.sendall(request[30:])
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                assert (response.status, len(json.loads(response.read())["rows"])) == (200, 1)
            time.sleep(0.6)
        start = time.monotonic()
        assert connection.recv(65536) == b""
        assert 0.2 < time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # the beginning of a TLS handshake
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000, 400),
        (HEAD + b"Content-Length: x\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + CHUNKED + b"4000\r\n" + b" " * 0x4000 + b"\r\n", 408),
        (HEAD + CHUNKED + 9 * (b"8000\r\n" + b" " * 0x8000 + b"\r\n") + b"0\r\n\r\n", 413),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n" + b" " * 800_001, 413),
    ],
)
def test_broken_requests_are_refused(predictor, serving, client, raw, sent, status) -> None:
    with serving(predictor, transfer_seconds=0.5, body_bytes=100_000) as port:
        answer = raw(port, sent)
        assert client(port)(GOOD)[0] == 200
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"].count("; ") == 2


def test_a_client_that_leaves_takes_nothing_along(gated, serving, client) -> None:
    slow = gated()
    with serving(slow) as port:
        for sent in (HEAD, SIZED + b"\r\n" + BODY[:9], SIZED + b"\r\n" + BODY):
            socket.create_connection(("127.0.0.1", port)).close()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(sent)
        slow.gate.set()
        assert client(port)(GOOD)[0] == 200


def test_who_does_not_read_is_cut_off(tmp_path, serving, client) -> None:
    spec, dim = lg.LatticeSpec(shape=(3, 3, 5), radii=(0.5, 1.0, 1.5)), 6000
    lg.LatticeModel(spec, embedding_dim=dim, channels=4, hidden=4, steps=5).save_pretrained(tmp_path)
    body = json.dumps({"embeddings": [[1] * dim] * 64}, separators=(",", ":")).encode()
    with (
        serving(Predictor(tmp_path), transfer_seconds=0.5) as port,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        watch = client(port)
        while 'status="200"} 1' not in watch(None, "/metrics", "GET")[1]:
            time.sleep(0.01)
        time.sleep(1)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        length = int(re.search(rb"content-length: (\d+)", found)[1])
        assert 0 < len(found) < length


def test_beyond_the_queue_and_the_times_requests_are_turned_away(gated, serving, client, at_once) -> None:
    slow = gated()
    limits = {"queue_rows": 4, "request_rows": 4, "queue_seconds": 0.6, "request_seconds": 1.2, "wait_ms": 0}
    with serving(slow, **limits) as port:
        waits = threading.Thread(target=lambda: found.append(first(GOOD)))
        first, found = client(port), []
        waits.start()
        assert slow.begun.wait(10)
        begun = time.monotonic()
        answers = at_once(*(partial(client(port), GOOD) for _ in range(6)))
        assert time.monotonic() - begun > 0.5
        assert sorted(status for status, _ in answers) == [503] * 2 + [504] * 4
        full = next(answer["error"] for status, answer in answers if status == 503)
        assert full == "at most 4 rows may wait; got 1 with 4 waiting; try again later."
        late = next(answer["error"] for status, answer in answers if status == 504)
        assert "got beyond that in a queue of" in late
        waits.join()
        assert found[0][0] == 504
        assert "got beyond that in the forward" in found[0][1]["error"]
        ask = client(port)
        while (health := ask(None, "/health", "GET"))[0] == 200:  # until the forward is past any request's time
            time.sleep(0.01)
        assert (health[0], health[1]["ready"]) == (503, False)
        assert sum(count for count, *_ in slow.calls) == 0
        slow.gate.set()
        assert ask(GOOD)[0] == 200
        assert ask(None, "/health", "GET")[1]["ready"]
        assert sum(count for count, *_ in slow.calls) == 2  # of those that gave up nothing more was computed


def test_a_full_queue_says_when_to_come_again(gated, serving, client) -> None:
    slow = gated()
    with serving(slow, queue_rows=1, request_rows=1, wait_ms=0) as port:
        others = [threading.Thread(target=client(port), args=(GOOD,)) for _ in range(2)]
        others[0].start()
        assert slow.begun.wait(10)
        others[1].start()
        ask = client(port)
        while (status := ask(None, "/health", "GET")[0]) == 200:
            time.sleep(0.01)
        assert (status, ask(GOOD)[0], ask.response.headers["retry-after"]) == (503, 503, "1")
        slow.gate.set()
        for other in others:
            other.join()


def test_connections_are_counted(predictor, serving, client) -> None:
    with serving(predictor, connections=3) as port:
        held = [client(port) for _ in range(3)]
        assert [ask(GOOD)[0] for ask in held] == [200] * 3
        status, _ = client(port)(GOOD)
        assert status == 503
        idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(9)]
        cut = 0
        for connection in idle:
            connection.settimeout(0.2)
            try:
                cut += connection.recv(1) == b""
            except ConnectionResetError:
                cut += 1
            except TimeoutError:
                pass
            connection.close()
        assert cut >= 6
        while held[0](GOOD)[0] == 503:  # the service hears of the closing a little later
            time.sleep(0.05)


def test_an_end_with_requests_under_way_answers_them(gated, serving, client) -> None:
    slow, found = gated(), []
    with serving(slow, wait_ms=0) as port:
        watch, *asking = (client(port) for _ in range(6))
        others = [threading.Thread(target=lambda ask=ask: found.append(ask(GOOD)[0])) for ask in asking]
        others[0].start()
        assert slow.begun.wait(10)
        for other in others[1:]:
            other.start()
        while watch(None, "/metrics", "GET")[1].splitlines()[-1] != "latticegnn_waiting_rows 4":
            time.sleep(0.01)
        threading.Timer(0.3, slow.gate.set).start()
    for other in others:
        other.join()
    assert found == [200] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_program_serves_until_a_signal(tmp_path, client, number) -> None:
    spec = lg.LatticeSpec(shape=(3, 3, 5), radii=(0.5, 1.0, 1.5))
    lg.LatticeModel(spec, embedding_dim=DIM, channels=4, hidden=4, steps=5).save_pretrained(tmp_path / "model")
    (tmp_path / "serve.yaml").write_text("limits: {request_rows: 2, wait_ms: 300}\nport: 0\n")
    words = [sys.executable, "-m", "latticegnn", "serve", "--model", str(tmp_path), "--config", "serve.yaml"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        line = program.stdout.readline()
        address = re.fullmatch(
            rf"{re.escape(str(tmp_path))} is served at http://127.0.0.1:(\d+); Ctrl-C ends it\n", line
        )
        ask = client(int(address[1]))
        status, answer = ask(GOOD)
        assert status == 200
        np.testing.assert_allclose(
            answer["rows"][0]["embedding"], Predictor(tmp_path).predict(np.ones((1, DIM)))[0]["embedding"], atol=1e-6
        )
        assert ask({"embeddings": [[1.0] * DIM] * 3})[0] == 422
        assert "no teacher.json" in ask({"texts": ["a"]})[1]["error"]
        waiting = threading.Thread(target=lambda: found.append(ask(GOOD)[0]))
        found: list[int] = []
        waiting.start()
        time.sleep(0.1)  # in the queue, waiting for company
        os.kill(program.pid, number)
        waiting.join()
        out, err = program.communicate(timeout=20)
    assert (found, program.returncode, out, err) == ([200], 0, "", "")


def test_a_port_that_is_taken_is_refused(refuses) -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with refuses("a free port", f"got 127.0.0.1 and {port}", "choose another --port", OSError):
            listen("127.0.0.1", port)
    with refuses("an address of this machine", "got 192.0.2.1 and 0", "--host 127.0.0.1", OSError):
        listen("192.0.2.1", 0)
    with refuses("a free port", "got 127.0.0.1 and 70000", "--port", OSError):
        listen("127.0.0.1", 70000)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"batch_rows": 0}, "batch_rows must be a whole number, at least 1; got 0; 64 is the default."),
        ({"batch_rows": 1.5}, "at least 1; got 1.5"),
        ({"connections": True}, "at least 1; got True"),
        ({"wait_ms": -1}, "wait_ms must be a number, 0 or more; got -1"),
        ({"queue_seconds": float("nan")}, "queue_seconds must be a number above 0; got nan"),
        ({"request_seconds": 0}, "request_seconds must be a number above 0; got 0"),
        ({"queue_rows": 9, "request_rows": 10}, "must fit into the queue; got request_rows 10 with queue_rows 9"),
    ],
)
def test_limits_are_checked(given, rule) -> None:
    with pytest.raises(ValueError) as caught:
        Limits(**given)
    assert rule in str(caught.value)
    assert Limits(wait_ms=0).wait_ms == 0
