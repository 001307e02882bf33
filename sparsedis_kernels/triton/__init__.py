"""Triton kernels of the ops that memory bounds, for NVIDIA and AMD GPUs.

`kernels/` holds what runs on the device, the modules beside it what cuts a problem into programs
and launches them. Nothing here is imported before a call needs it.
"""
