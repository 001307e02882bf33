"""Compile Triton kernels for an NVIDIA GPU without having one, and run the PTX on CPU tensors."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from .execute import Kernel, LaunchStats
from .ptx_types import PtxError

_compiled: dict[tuple, Any] = {}
_kernels: dict[tuple[str, str | None], Kernel] = {}


@dataclass(frozen=True)
class _Specialised:
    """What Triton's launcher makes of a call: the source to compile, options, and the arguments."""

    source: ASTSource
    options: dict[str, Any]
    target: GPUTarget
    bound: dict[str, Any]  # every parameter's value, constants included

    @property
    def runtime(self) -> list[Any]:
        """The values that are passed at run time, in order."""
        return runtime_arguments(self.source.signature, self.bound.values())


def runtime_arguments(signature: dict[str, Any], values: Iterable[Any]) -> list[Any]:
    """Of every parameter's value, those that are passed at run time, in order."""
    pairs = zip(signature.values(), values, strict=True)
    return [leaf for type_, value in pairs for leaf in _runtime_leaves(type_, value)]


def _runtime_leaves(type_: Any, value: Any) -> Iterator[Any]:
    """The run-time parts of an argument; a tuple is passed element by element."""
    if isinstance(type_, tuple):
        for element_type, element in zip(type_, value, strict=True):
            yield from _runtime_leaves(element_type, element)
    elif type_ != "constexpr":
        yield value


@functools.cache
def _binder(fn: JITFunction, target: GPUTarget) -> tuple[Any, Callable[..., tuple]]:
    """Triton's backend, and the function by which its launcher binds and specialises arguments."""
    backend = make_backend(target)
    return backend, create_function_from_signature(fn.signature, fn.params, backend)


def _by_name(fn: JITFunction, args: Sequence[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name: `args` fill the parameters that no keyword names, in order."""
    open_names = [p.name for p in fn.params if p.name not in keywords]
    if len(args) > len(open_names):
        raise PtxError(f"{fn.__name__} takes {', '.join(open_names)}; got {len(args)} arguments")
    return dict(zip(open_names, args, strict=False)) | keywords


def _specialise(
    fn: JITFunction, args: Sequence[Any], capability: int, keywords: dict[str, Any]
) -> _Specialised:
    """Specialise by the launcher's own code: the kernel compiled is the one a GPU would run.

    An integer 1 and None become constants, addresses and integers divisible by 16 are marked, a
    Python float is fp32, and an annotated parameter has the type it says.
    """
    if not isinstance(fn, JITFunction):
        raise PtxError(f"{fn!r} is no @triton.jit function; of a wrapped one pass the .fn inside")
    target = GPUTarget("cuda", capability, 32)
    backend, bind = _binder(fn, target)
    keywords = _by_name(fn, args, keywords)
    try:
        bound, specialisation, extra = bind(**keywords)
        options, *source = fn._pack_args(backend, keywords, bound, specialisation, extra)
    except (KeyError, TypeError) as error:
        message = str(error.args[0]).replace("dynamic_func()", fn.__name__)
        raise PtxError(f"{fn.__name__}: {message}") from error
    return _Specialised(ASTSource(fn, *source), options.__dict__, target, bound)


def compile_triton(
    jit_fn: JITFunction,
    args: Sequence[Any] = (),
    capability: int = 80,
    num_warps: int = 4,
    num_stages: int = 3,
    **keywords: Any,
) -> Any:
    """Compile as the launcher would for these arguments.

    `keywords` are constants, further arguments and compile options (maxnreg, ...). Returns Triton's
    compiled kernel, with `.asm` ("ptx", "cubin", "ttgir", ...) and `.metadata`. For an autotuned or
    heuristic kernel pass the function inside (`kernel.fn`) and its constants.
    """
    keywords |= {"num_warps": num_warps, "num_stages": num_stages}
    return _compile(_specialise(jit_fn, args, capability, keywords))


def _compile(call: _Specialised) -> Any:
    source = call.source
    parts = (source.signature, source.attrs, source.constants, call.options)
    key = (source.fn, call.target.arch, *map(repr, parts))
    if key not in _compiled:
        _compiled[key] = triton.compile(source, target=call.target, options=call.options)
    return _compiled[key]


def launch(
    jit_fn: JITFunction,
    grid: Sequence[int] | Callable[[dict[str, Any]], Sequence[int]],
    args: Sequence[Any] = (),
    capability: int = 80,
    num_warps: int = 4,
    num_stages: int = 3,
    *,
    sanitize: str | None = None,
    launch_options: dict[str, Any] | None = None,
    **keywords: Any,
) -> LaunchStats:
    """Compile a Triton kernel for an NVIDIA GPU and execute its PTX on CPU tensors.

    `args` fill the parameters that `keywords` do not name, in order; usually the constants are
    given by keyword. `launch_options` go to Kernel.launch (blocks, check_bounds, ...).
    """
    keywords |= {"num_warps": num_warps, "num_stages": num_stages}
    call = _specialise(jit_fn, args, capability, keywords)
    grid = grid(call.bound) if callable(grid) else grid
    return run_compiled(_compile(call), grid, call.runtime, sanitize, **(launch_options or {}))


def run_compiled(
    compiled: Any,
    grid: Sequence[int],
    runtime_args: Sequence[Any],
    sanitize: str | None = None,
    ptx: str | None = None,
    **launch_options: Any,
) -> LaunchStats:
    """Execute a kernel from compile_triton(), or a changed version of its PTX.

    runtime_args leaves out constants, and integers and None that were specialised to constants.
    """
    metadata = compiled.metadata
    if getattr(metadata, "global_scratch_size", 0):
        raise PtxError("kernels with global scratch memory are not supported")
    key = (ptx or compiled.asm["ptx"], sanitize)
    if key not in _kernels:
        _kernels[key] = Kernel(key[0], sanitize)
    kernel = _kernels[key]
    values = _as_passed(compiled, runtime_args)
    parameters = kernel.translation.entry(metadata.name).parameters
    hidden_pointers = [0] * (len(parameters) - len(values))  # scratch memory, not used
    args, threads = [*values, *hidden_pointers], 32 * metadata.num_warps
    return kernel.launch(metadata.name, args, grid, threads, metadata.shared, **launch_options)


def _as_passed(compiled: Any, runtime_args: Sequence[Any]) -> list[Any]:
    """The values as the launcher writes them to the parameter block."""
    signature = compiled.src.signature.values()
    types = [leaf for type_ in signature for leaf in _runtime_leaves(type_, type_)]
    if len(types) != len(runtime_args):
        wanted = f"{len(types)} run-time arguments ({', '.join(types)})"
        raise PtxError(f"{compiled.metadata.name} takes {wanted}; got {len(runtime_args)}")
    return [_convert(type_, value) for type_, value in zip(types, runtime_args, strict=True)]


def _convert(type_: str, value: Any) -> Any:
    """A number in the type of its parameter: an annotated `x: tl.float64` may be given an int."""
    if type_.startswith("*"):
        return 0 if value is None else value
    if type_ == "bf16":
        return struct.pack("<f", value)[2:]  # the launcher truncates
    if type_.startswith("fp"):
        return float(value)
    if not isinstance(value, int):
        raise PtxError(f"a parameter of type {type_} cannot take {value!r}")
    return value
