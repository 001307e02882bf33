"""python -m tests.ptx FILE.ptx: print the C++ of a PTX file; refused kernels go to stderr."""

import sys

from .translate import translate


def main(arguments: list[str]) -> int:
    """Command line; the exit status is 1 if a kernel is refused."""
    if len(arguments) != 1:
        print("usage: python -m tests.ptx FILE.ptx", file=sys.stderr)
        return 2
    with open(arguments[0]) as file:
        translation = translate(file.read(), arguments[0])
    print(translation.cpp)
    for error in translation.refused.values():
        print(f"refused: {error}", file=sys.stderr)
    return 1 if translation.refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
