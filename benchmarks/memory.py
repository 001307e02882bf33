"""Peak memory of fitting many ridge heads, in units of inputs plus outputs."""

import argparse
import resource

import torch

import sparsedis_kernels as sk


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--backward", action="store_true", help="with the gradient in z")
    args = parser.parse_args()
    T, n, M, C = args.tasks, 50, 128, 5
    penalty = sk.Penalty(ridge=0.1)
    sk.fit_heads(torch.randn(2, n, M), torch.randn(2, n, C), penalty)
    before = peak_bytes()  # the interpreter and its libraries
    z, y = torch.empty(T, n, M).normal_(), torch.empty(T, n, C).normal_()
    fit = sk.fit_heads(z.requires_grad_(args.backward), y, penalty)
    held = [z, y, *fit]
    if args.backward:
        seed = torch.ones_like(fit.weight)
        held += [seed, torch.autograd.grad(fit.weight, z, seed)[0]]
    used = peak_bytes() - before
    ideal = sum(t.numel() * t.element_size() for t in held)
    print(f"T={T} n={n} M={M} C={C} float32, all converged: {bool(fit.converged.all())}")
    print(f"inputs + outputs {ideal / 1e9:.3f} GB, peak {used / 1e9:.3f} GB: {used / ideal:.3f}x")


if __name__ == "__main__":
    main()
