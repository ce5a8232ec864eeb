"""Tables for the terminal: every figure in its column."""

from latticegnn.report.tables import format_differences, format_table, format_variants, format_verdict


def figure(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


def test_a_runs_table() -> None:
    rows = [
        {"model": "lattice", "parameters": 21755, **figure("fvu", 0.5), "seconds": 12.4, "ms_per_update": 8.26},
        {"model": "mean", "parameters": 0, **figure("fvu", 1.0)},
    ]
    assert format_table(rows).splitlines() == [
        "model    parameters                   fvu  seconds  ms/update",
        "─────────────────────────────────────────────────────────────",
        "lattice      21,755  0.500 [0.400, 0.600]       12        8.3",
        "mean              0  1.000 [0.900, 1.100]        –          –",
    ]


def test_metrics_stand_in_one_order_whatever_the_rows() -> None:
    row = {"model": "lattice", "parameters": 1, **figure("cosine", 0.1), **figure("mrr@10", 0.2), **figure("fvu", 0.3)}
    head = format_table([row]).splitlines()[0].split()
    assert head == ["model", "parameters", "mrr@10", "fvu", "cosine", "seconds", "ms/update"]


def test_an_experiments_table() -> None:
    row = {"variant": "sage", "model": "lattice", "seeds": 3, "parameters": 1234, "fvu": 0.25, "fvu_sd": 0.0125}
    assert format_variants([row | {"seconds": 61.0, "ms_per_update": 4.0}]).splitlines() == [
        "variant  seeds  parameters            fvu  seconds  ms/update",
        "─────────────────────────────────────────────────────────────",
        "sage         3       1,234  0.250 ± 0.013       61        4.0",
    ]


def test_the_verdict_follows_the_interval_and_what_is_better() -> None:
    def verdicts(metric: str, *intervals: tuple[float, float]) -> list[str]:
        rows = [{"model": "lattice", metric: 0.5}]
        for low, high in intervals:
            gap = {"lattice_minus": (low + high) / 2, "lattice_minus_low": low, "lattice_minus_high": high}
            rows.append({"model": "pca", metric: 0.5, **gap})
        return [line.rpartition(", ")[2] for line in format_verdict(rows).splitlines()]

    clear = ["the lattice wins", "no clear difference", "the lattice loses"]
    assert verdicts("mrr@10", (0.01, 0.03), (-0.01, 0.03), (-0.03, -0.01)) == clear
    assert verdicts("fvu", (-0.03, -0.01), (-0.01, 0.03), (0.01, 0.03)) == clear


def test_differences_end_by_all_their_intervals() -> None:
    def ends(metric: str, model: str = "pca", **spans: tuple[float, float]) -> str:
        row = {"variant": "b", "model": model, metric: 0.5, "difference": 0.25, "compared": "a"}
        for kind, (low, high) in spans.items():
            row |= {f"difference_{kind}_low": low, f"difference_{kind}_high": high}
        return format_differences([{"variant": "a", "model": "lattice", metric: 0.5}, row])

    clear, open_, below = (0.1, 0.4), (-0.1, 0.6), (-0.4, -0.1)
    assert ends("mrr@10", seeds=clear, rows=clear) == (
        "b: lattice − pca: mrr@10 +0.2500, seeds [+0.1000, +0.4000], rows [+0.1000, +0.4000]: the lattice wins"
    )
    assert ends("fvu", seeds=clear, rows=clear).endswith(": pca wins")
    assert ends("fvu", seeds=below, rows=below).endswith(": the lattice wins")
    assert ends("mrr@10", seeds=clear, rows=open_).endswith(": no clear difference")
    assert ends("mrr@10", seeds=below, rows=clear).endswith(": no clear difference")
    assert ends("mrr@10").endswith("+0.2500: no clear difference")
    assert ends("mrr@10", model="lattice", seeds=clear) == "b − a: mrr@10 +0.2500, seeds [+0.1000, +0.4000]: b wins"
    assert ends("mrr@10", model="lattice", seeds=below).endswith(": a wins")
