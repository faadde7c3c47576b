"""Functions that Unsloth's kernels hold from before Triton's interpreter took their places, as functions of Triton.

A module of its own, since Triton must be there when it is imported.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    return 2 / (1 + tl.exp(-2 * x)) - 1


@triton.jit
def cast(x, dtype):  # type: ignore[no-untyped-def]
    return tl.cast(x, dtype)
