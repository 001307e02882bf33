"""What is particular to the Triton kernels; their values are tested with those of all backends."""

import pytest
import torch

import sparsedis_kernels as sk
from tests.triton.implementations import CAPABILITIES, executing


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_dense_arrays_are_read_and_written_once_sixteen_bytes_at_a_time(capability):
    v = torch.randn(64, 100, 5)
    with executing(capability) as launches:
        sk.prox(v, sk.Penalty(l1=0.1, group=0.5), backend="triton")
    (launch,) = launches
    assert launch.stats.global_loads == {16: v.nbytes // 16}
    assert launch.stats.global_stores == {16: v.nbytes // 16}


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_more_tasks_than_a_tile_holds_are_solved_in_passes(capability, with_metric):
    """Sums over chunks of tasks, then the prox: what smaller problems do in one program."""
    v = torch.randn(520 if with_metric else 2100, 3, 4, dtype=torch.float64)
    metric = (0.5 * torch.randn_like(v)).exp() if with_metric else None
    shared = torch.tensor(6.0, dtype=torch.float64)

    def solve(backend):
        leaves = [t.clone().requires_grad_() for t in (v, shared)]
        penalty = sk.Penalty(l1=0.1, group=0.3, shared=leaves[1], ridge=0.2)
        x = sk.prox(leaves[0], penalty, metric=metric, backend=backend)
        return x.detach(), *torch.autograd.grad(x, leaves, v)

    with executing(capability) as launches:
        ours = solve("triton")
    torch.testing.assert_close(ours, solve("reference"), rtol=1e-10, atol=1e-11)
    assert len(launches) > 2
    assert (ours[0] == 0).all(2).any()


def test_passes_end_feature_by_feature():
    """The first feature has one curvature, so that its first step lands; the others need several.

    A program has one feature here; once its feature has arrived it reads no weights.
    """
    v = torch.randn(400, 3, 600, dtype=torch.float64)
    spread = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)[:, None]
    metric = (spread * torch.randn_like(v)).exp()
    penalty = sk.Penalty(shared=100.0)
    with executing(80) as launches:
        x = sk.prox(v, penalty, metric=metric, backend="triton")
    torch.testing.assert_close(x, sk.prox(v, penalty, metric=metric, backend="reference"))
    sums = [k for k in launches if k.compiled.name == "feature_sums_kernel"]
    arrays = v.nbytes + metric.nbytes
    reads = [round(16 * k.stats.global_loads.get(16, 0) / arrays, 1) for k in sums]
    assert reads[:3] == [1.0, 1.0, 0.7]
    assert reads == sorted(reads, reverse=True)
    assert reads[-6:] == [0.0] * 6


def test_long_groups_compile_in_a_layout_that_threads_share():
    """A group's number kept as a vector of one once gave every thread all entries of the group."""
    v, group = torch.randn(2, 2, 700, requires_grad=True), torch.full((2, 2), 9.0)
    penalty = sk.Penalty(group=group.requires_grad_())
    with executing(80) as launches:
        torch.autograd.grad(sk.prox(v, penalty, backend="triton").sum(), [v, group])
    assert all(len(launch.compiled.asm["llir"]) < 200_000 for launch in launches)
