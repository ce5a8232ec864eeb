"""The clients of the service's benchmark: the good are answered, the bad refused, at the same time."""

import threading

from latticegnn.benchmarks.clients import load, trouble
from latticegnn.benchmarks.serve import figures

DIM = 12


def test_good_and_bad_clients_of_one_service(predictor, serving) -> None:
    refused: dict = {}
    with serving(predictor, transfer_seconds=0.7) as port:
        bad = threading.Thread(target=lambda: refused.update(trouble(port, seconds=0.6)))
        bad.start()
        found = load(port, requests=60, connections=4, dim=DIM)
        assert found["statuses"] == {"200": 60}
        assert 0 < found["p50"] <= found["p99"] <= found["max"] <= 1e3 * found["seconds"]
        counts = figures(port)
        assert counts["rows"] == 60
        assert 15 <= counts["forwards"] <= 60
        paced = load(port, requests=20, connections=4, dim=DIM, rate=50, seed=1)
        assert paced["statuses"] == {"200": 20}
        assert paced["seconds"] > 0.1
        assert load(port, requests=2, connections=1, dim=DIM + 1)["statuses"] == {"422": 2}
        assert load(port, requests=2, connections=1, dim=None)["statuses"] == {"200": 2}
        bad.join()
    assert set(refused) == {"no question", "no HTTP", "2 MB", "head without end", "body without end"}
    assert set(refused["no question"]) <= {"HTTP/1.1 422 Unprocessable Entity", "HTTP/1.1 400 Bad Request"}
    assert set(refused["no HTTP"]) == {"HTTP/1.1 400 Bad Request"}
    assert set(refused["2 MB"]) == {"HTTP/1.1 413 Request Entity Too Large"}
    for name in ("head without end", "body without end"):
        assert set(refused[name]) <= {"HTTP/1.1 408 Request Timeout", "cut"}
        assert sum(refused[name].values()) >= 10
