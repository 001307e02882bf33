"""Device code. Triton compiles what follows a `return` too, so branches here end in `else`."""
