"""Tables and figures of times, on rows made up."""

import json

import pytest

from sparsedis_kernels.bench.measure import Row
from tests.evidence import performance, plots


def row(kind, shape, provider, seconds, op="fit_heads", direction="forward", **numbers):
    where = (op, kind, shape, "float32", direction, provider, "timed")
    return Row(*where, seconds=seconds, bytes_moved=4000, gb_per_s=4e-6 / seconds, **numbers)


def test_a_line_a_bar_holds_ours_beside_its_limit():
    name, shape = "fit_heads ridge n=25 10x64x5 forward", (10, 64, 5)
    seconds = {"ours": 1e-3, "copy": 1e-4, "in-place axpy": 2e-4, "matrix product": 5e-4}
    rows = [row("ridge n=25", shape, who, time) for who, time in seconds.items()]
    bar = {"case": name, "factor": 2.0, "than": "jax", "ratio": 3.0, "passed": True}
    lines = list(performance._of_case(name, rows, [bar]))
    assert lines == [(name, "100.0 us", "50% of matrix product", "2x", "3x", "pass", "jax")]
    lines = list(performance._of_case(name, rows, []))
    assert lines == [(name, "100.0 us", "50% of matrix product", "", "", "", "")]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(performance, "FOLDER", tmp_path / "kept")
    return tmp_path


def document(machine, *rows):
    cells = [{**vars(r), "shape": list(r.shape)} for r in rows]
    return json.dumps({"command": "c", "machine": machine, "rows": cells, "bars": []})


def test_documents_of_one_machine_are_shown_together_and_survive_being_kept(kept):
    scaling = [row("tasks, ridge n=25", (T, 64, 5), "ours", 1e-3, op="scaling") for T in (10, 100)]
    at = [{"threads": 1, "commit": commit} for commit in ("1" * 40, f"{'2' * 40}-dirty")]
    (kept / "a.json").write_text(document(at[0], row("ridge n=25", (9, 64, 5), "ours", 1)))
    (kept / "b.json").write_text(document(at[1], *scaling))
    (kept / "c.json").write_text(document({"threads": 2}))
    performance.keep(kept)
    first = performance.sessions()
    assert [(s.name, len(s.rows), len(s.commands)) for s in first] == [("a", 3, 2), ("c", 0, 1)]
    assert first[0].commands == [("c", "1" * 12), ("c", f"{'2' * 12}-dirty")]
    assert list(performance.pictures(first[0])) == ["a-tasks.png"]
    assert (kept / "kept/a-tasks.png").stat().st_size > 0
    performance.keep(kept / "kept")
    assert performance.sessions() == first


def test_sizes_are_drawn_where_the_other_has_the_most_values():
    rows = [
        row(f"ridge n={n}", (10, M, 5), "ours", 1e-3 * M)
        for n, M in ((25, 64), (50, 64), (50, 128), (50, 512), (200, 128))
    ]
    against_n, against_m = plots.sizes(rows)
    assert (against_n.title, against_m.title) == (
        "ridge, forward, M = 64",
        "ridge, forward, n = 50",
    )
    assert [x for x, _ in against_m.lines["ours"]] == [64, 128, 512]
    assert plots.sizes(rows[:1]) == []


def test_the_roof_is_the_least_of_what_memory_and_arithmetic_allow():
    shape = (10, 64, 5)
    times = {"ours": 1e-4, "copy": 1e-6, "matrix product": 2e-6}
    rows = [row("ridge n=25", shape, who, time, flops=8000) for who, time in times.items()]
    (panel,) = plots.roofline(rows)
    assert panel.lines["ours"] == [(2.0, pytest.approx(0.08))]
    roof = panel.lines["measured limit"]
    assert [x for x, _ in roof] == pytest.approx([0.5, 1.0, 4.0])
    assert [y for _, y in roof] == pytest.approx([2.0, 4.0, 4.0])
