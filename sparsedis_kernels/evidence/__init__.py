"""Experiments that show whether the method works, and ``sparsedis reproduce``, which runs them."""
