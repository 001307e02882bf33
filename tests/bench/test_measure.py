"""No time for a wrong answer, and numbers that follow from the samples."""

import pytest
import torch

from sparsedis_kernels import backends
from sparsedis_kernels.bench import MODULES, inplace, measure
from sparsedis_kernels.bench.case import (
    COMPILED,
    Case,
    Job,
    UnavailableError,
    close_to,
    function_case,
)
from sparsedis_kernels.bench.inplace import EAGER
from sparsedis_kernels.bench.limits import AXPY, COPY, LIMITS, _copy
from sparsedis_kernels.bench.measure import Effort

CPU = torch.device("cpu")
SHORT = Effort(seconds=0.0, samples=5)


def unavailable(data):
    raise UnavailableError("has no licence")


def out_of_memory(data):
    raise torch.OutOfMemoryError("tried to allocate 1 PiB")


def toy(**providers):
    """Doubling a million floats."""

    def setup(device):
        data = torch.arange(1e6, device=device)
        return Job(data, close_to(2 * data.double()), bytes_moved=8_000_000)

    return Case("double", "", (10, 1000, 100), "forward", setup, providers)


def rows_of(case, effort=SHORT):
    return {row.provider: row for row in measure.measure(case, CPU, effort)}


def test_a_wrong_answer_gets_no_time():
    rows = rows_of(
        toy(
            right=lambda v: lambda: 2 * v,
            one_entry_wrong=lambda v: lambda: (2 * v).index_fill(0, torch.tensor([777]), 0.0),
            other_shape=lambda v: lambda: 2 * v[1:],
        )
    )
    assert rows["right"].status == "timed"
    for name in ("one_entry_wrong", "other_shape"):
        assert rows[name].status == "wrong"
        assert rows[name].seconds is None
        assert rows[name].gb_per_s is None
    assert "1 / 1000000" in rows["one_entry_wrong"].note


def test_errors_count_relative_to_the_answer():
    """Answers of 1e-9 may not be anything below the tolerance."""

    def setup(device):
        data = 1e-9 * torch.arange(1, 9.0)
        return Job(data, close_to((data.double(), torch.tensor(8))), bytes_moved=64)

    providers = {
        "right": lambda v: lambda: (v, torch.tensor(8)),
        "zeros": lambda v: lambda: (torch.zeros_like(v), torch.tensor(8)),
        "miscounted": lambda v: lambda: (v, torch.tensor(7)),
        "too_few": lambda v: lambda: (v,),
    }
    rows = rows_of(Case("tiny", "", (1, 8, 1), "forward", setup, providers))
    assert [rows[name].status for name in providers] == ["timed", "wrong", "wrong", "wrong"]


def test_who_cannot_is_skipped_with_the_reason():
    rows = rows_of(toy(right=lambda v: lambda: 2 * v, a=unavailable, b=out_of_memory))
    assert [rows[name].status for name in ("right", "a", "b")] == ["timed", "skipped", "skipped"]
    assert rows["a"].note == "has no licence"
    assert rows["b"].note == "out of memory"
    assert rows["a"].seconds is None


def test_numbers_follow_from_the_samples(monkeypatch):
    ones = [1.0, 1.0, 1.0, 1.0, 1.0, 9.0]
    samples = {"x": [5.0, 1.0, 2.0, 3.0, 4.0, 6.0], COPY: ones, AXPY: ones}
    monkeypatch.setattr(measure, "interleaved", lambda *a, **k: samples)
    row = rows_of(toy(x=lambda v: lambda: 2 * v))["x"]
    assert (row.low, row.seconds, row.high, row.samples) == (2.0, 3.5, 5.0, 6)
    assert row.bytes_moved == 8_000_000
    assert row.gb_per_s == pytest.approx(8e-3 / 3.5)
    assert row.copy_fraction == pytest.approx(1 / 3.5)


def test_the_copy_moves_as_many_bytes_as_the_job():
    target = _copy(8_000_000, CPU)()
    assert target.nbytes == 4_000_000  # read once, written once


def test_peak_memory_counts_what_a_call_holds_at_a_time():
    rows = rows_of(
        toy(
            one=lambda v: lambda: v.add(v),
            two=lambda v: lambda: v.clone().add(v),
            none=lambda v: (lambda held: lambda: torch.add(v, v, out=held))(torch.empty_like(v)),
        )
    )
    for name, arrays in (("none", 0), ("one", 1), ("two", 2)):
        if rows[name].peak_bytes is None:
            pytest.skip("the system does not tell a process its peak memory")
        assert rows[name].peak_bytes == pytest.approx(4e6 * arrays, abs=1e6)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_cases_are_distinct_and_quick_takes_the_smallest(device_type):
    every = list(measure.cases(list(MODULES), device_type))
    quick = list(measure.cases(list(MODULES), device_type, quick=True))
    assert len({str(case) for case in every}) == len(every)
    assert {str(case) for case in quick} < {str(case) for case in every}
    assert {case.op for case in quick} == set(MODULES)
    assert max(torch.Size(c.shape).numel() for c in quick) <= 1e5


def test_every_bar_names_someone_who_is_measured():
    for case in measure.cases(list(MODULES), "cpu"):
        there = {*case.providers, *case.peers, *LIMITS}
        assert all(there & set(bar.than) for bar in case.bars), str(case)


def test_beyond_the_caches_memory_is_the_bar():
    """40,960,000 floats against 6,400; in place, a weight counts twice: read and written."""
    for shape, than in (((1, 64, 100), EAGER), ((1, 4096, 10_000), AXPY)):
        case = inplace.layout_case("rows", shape, inplace.GROUP, 0.0)
        assert than in case.bars[0].than
    start = torch.ones(1, 64, 100)
    assert next(inplace.cases("prox_", "cpu", True)).setup(CPU).bytes_moved == 2 * start.nbytes


@pytest.mark.parametrize("case", [*measure.cases(list(MODULES), "cpu", quick=True)], ids=str)
def test_every_provider_is_right(case):
    """All but the compiled ones, whose compilation takes long; they run what runs here eagerly."""
    job = case.setup(CPU)
    for provider in case.providers.keys() - {COMPILED}:
        answer = measure.checked(case, provider, job)()
        answers = answer if isinstance(answer, list | tuple) else [answer]
        assert all((a != 0).any() for a in answers)


def test_no_call_in_place_ends_at_zero():
    """Thousands of calls go on from one another's weights."""
    for case in measure.cases(["prox_"], "cpu", quick=True):
        job = case.setup(CPU)
        call = case.providers["ours"](job.data)
        for _ in range(5000):
            w = call()
        assert w.abs().mean() > 0.5 * job.data.abs().mean()


@pytest.mark.slow
def test_compiled_pytorch_is_right():
    """In every case, though all share one function: none counts as a recompilation of another."""
    cases = [c for c in measure.cases(["prox"], "cpu", quick=True) if c.kind == "sparse group"]
    assert {case.direction for case in cases} == {"forward", "backward"}
    with torch._dynamo.config.patch(recompile_limit=1):
        for case in cases:
            measure.checked(case, COMPILED, case.setup(CPU))


def test_what_does_not_compile_is_skipped():
    def breaks(v):
        return v * float(v.sum()) if v.sum() > 0 else v

    functions = {"ours": breaks, "reference": breaks, "torch eager": breaks}
    case = function_case("prox", "", (2, 3, 4), "forward", functions, arrays=2)
    rows = rows_of(case)
    assert rows["torch eager"].status == "timed"
    assert rows[COMPILED].status == "skipped"
    assert rows[COMPILED].note.startswith("torch.compile: ")


@pytest.mark.parametrize("op", ["prox", "feature_usage", "prox_adamw", "prox_sgd"])
def test_ours_is_never_the_reference(op, monkeypatch):
    monkeypatch.setattr(backends, "CPU_LIBRARY", backends.Library(None, "_C.so was not built"))
    case = next(measure.cases([op], "cpu", quick=True))
    rows = rows_of(case)
    assert rows["ours"].status == "skipped"
    assert rows["ours"].note.startswith("cpu: _C.so was not built; ")


def test_backward_is_the_gradient_alone():
    """The answer is a gradient, and calls after the first do not run the function again."""
    runs = []

    def cube(v):
        runs.append(v)
        return v**3

    functions = {"ours": cube, "reference": cube}
    case = function_case("prox", "", (2, 3, 4), "backward", functions, arrays=3)
    job = case.setup(CPU)
    call = measure.checked(case, "ours", job)
    count = len(runs)
    assert torch.equal(call(), call())
    assert len(runs) == count
    (v,) = job.data
    job.check(call())
    with pytest.raises(AssertionError):
        job.check(cube(v))
