"""What the tests of training share."""

import sparsedis_kernels as sk
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.training.recipe import Recipe

RECIPE = Recipe(steps=20, tasks=3, support=20, query=20, features=16, check_every=10, test_tasks=20)
HEADS = {
    "dense": SparseHeads(sk.Penalty(ridge=0.3), relative=True),
    "sparse": SparseHeads(sk.Penalty(group=0.3, ridge=0.3), relative=True),
}
