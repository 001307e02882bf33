"""Head fits by other libraries, each in its best honest form: a module a library.

A provider makes a call of a `Fit`. What it can prepare without doing the job (types, layouts) is
not timed; copies of warm starts that a solver overwrites are.
"""
