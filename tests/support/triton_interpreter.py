"""What Triton's interpreter lacks for Unsloth's kernels: arithmetic of bfloat16, whose bits it takes for integers; tanh; cast."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np


def add_bfloat16() -> None:
    """Operations on bfloat16 widen to float32, compute there, and round to nearest even, as a card does."""
    from triton.runtime import interpreter

    builder = type(interpreter.interpreter_builder)
    for name, ours in REPLACED.items():
        usual = getattr(builder, name)
        setattr(builder, name, lambda self, *args, ours=ours, usual=usual: ours(partial(usual, self), *args))


def speed_up() -> None:
    """The same results in half the time: no check of each integer for overflow, which a card makes when it debugs; numpy's
    formats are looked up once; a kernel's launch alone changes `triton.language`, where each call within it did so anew."""
    from triton import language
    from triton.runtime import interpreter

    usual_patch, usual_launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    parts = {"language": language, "core": language.core}
    done: set[str] = set()

    def patch(function: Any) -> Any:
        needed = {name for name, part in parts.items() if any(value is part for value in function.__globals__.values())}
        if needed <= done:
            return interpreter._LangPatchScope()
        done.update(needed)
        return usual_patch(function)

    def launch(self: Any, *args: Any, **more: Any) -> Any:
        done.clear()  # its end takes the changes back
        return usual_launch(self, *args, **more)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch, launch
    usual_format = interpreter._get_np_dtype
    format_of = cache(usual_format)
    interpreter._get_np_dtype = lambda kind: (usual_format if kind.scalar.is_ptr() else format_of)(kind.scalar)
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def is_bf16(value: Any) -> bool:
    return str(value.dtype.scalar) == "bf16"


def widen(value: Any) -> Any:
    return (value.data.astype(np.uint32) << 16).view(np.float32) if is_bf16(value) else value.data


def result(values: Any, like: Any) -> Any:
    """A handle of the interpreter with these values in the format of `like`; comparisons stay truth values."""
    values = np.asarray(values)
    return handle(values, like.dtype.scalar) if values.dtype == bool else narrow(values, like.dtype.scalar)


def narrow(values: Any, kind: Any) -> Any:
    from triton.runtime.interpreter import _get_np_dtype

    return handle(
        round_to_bf16(values) if str(kind) == "bf16" else np.asarray(values).astype(_get_np_dtype(kind)), kind
    )


def handle(values: Any, kind: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle(values, kind)


def cast(usual: Any, source: Any, kind: Any, *more: Any) -> Any:
    mixed = is_bf16(source) is not (str(kind.scalar) == "bf16")
    return narrow(widen(source), kind.scalar) if mixed else usual(source, kind, *more)


def binary(usual: Any, a: Any, b: Any, op: Any) -> Any:
    return result(op(widen(a), widen(b)), a) if is_bf16(a) or is_bf16(b) else usual(a, b, op)


def unary(usual: Any, a: Any, op: Any) -> Any:
    return result(op(widen(a)), a) if is_bf16(a) else usual(a, op)


def ternary(usual: Any, a: Any, b: Any, c: Any, op: Any) -> Any:
    plain = op is np.where or not is_bf16(c)
    return usual(a, b, c, op) if plain else result(op(widen(a), widen(b), widen(c)), c)


def dot(usual: Any, a: Any, b: Any, d: Any, *more: Any) -> Any:
    plain = not (is_bf16(a) or is_bf16(b))
    return usual(a, b, d, *more) if plain else result(np.matmul(widen(a), widen(b), dtype=np.float32) + widen(d), d)


def fma(usual: Any, x: Any, y: Any, z: Any) -> Any:
    return result(widen(x) * widen(y) + widen(z), z)


def rsqrt(usual: Any, a: Any) -> Any:
    return result(1 / np.sqrt(widen(a)), a)


def erf(usual: Any, a: Any) -> Any:
    from triton.runtime.interpreter import np_erf_fp32

    return result(np_erf_fp32(widen(a)), a) if is_bf16(a) else usual(a)


REPLACED = {
    "binary_op": binary,
    "unary_op": unary,
    "ternary_op": ternary,
    "create_dot": dot,
    "cast_impl": cast,
    "create_fp_to_fp": cast,
    "create_fma": fma,
    "create_rsqrt": rsqrt,
    "create_erf": erf,
}
"""The interpreter's operations by name; each gets the usual one first."""


def round_to_bf16(values: Any) -> Any:
    """float32 → the 16 bits of the nearest bfloat16, ties to even."""
    values = np.asarray(values, dtype=np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)


def replace_early_functions() -> None:
    """Unsloth's kernels hold tanh of CUDA's own library, and `tl.cast` from before the interpreter took its place. For after
    `import unsloth`."""
    from tests.support.triton_functions import cast, tanh

    for name, module in list(sys.modules.items()):
        if name.startswith("unsloth.kernels."):
            for held, function in (("triton_tanh", tanh), ("triton_cast", cast)):
                if hasattr(module, held):
                    setattr(module, held, function)
