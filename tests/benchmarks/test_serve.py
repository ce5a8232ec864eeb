"""The service's benchmark starts a real service, loads it, and judges what it finds."""

import pytest

from latticegnn.benchmarks import serve


@pytest.mark.slow
def test_what_does_not_start_is_told(tmp_path, refuses) -> None:
    with (
        refuses("must start and end well", "is neither", "install 'latticegnn[serve]'", ChildProcessError),
        serve.launched(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_thousands_of_requests_are_judged() -> None:
    lines, claims = serve.throughput(serve.LONG, 400)
    assert [line["failed"] for line in lines] == [0, 0, 0]
    assert all(line["requests/s"] > 0 for line in lines)
    assert lines[0]["rows a forward"] >= 1
    assert 0.05 < lines[0]["÷ alone"] < 1
    assert [claim.measured for claim in claims[:2]] == [0, 0]
    table, _ = serve.soak(serve.LONG, 4_000)
    assert [row["requests"] for row in table.rows] == [0, 400, 2_000, 4_000]
    assert [row["failed"] for row in table.rows] == [0] * 4
    assert table.rows[-1]["resident MB"] - table.rows[-2]["resident MB"] < 30, "the process has grown to its size"
