"""Sixteen numbers at a time: the vector type that the compiled kernels are written in.

LLVM's loop vectorizer gives up on loops over many arrays, because it must first prove that they do
not overlap, and on a small matrix product with its sums in registers. So the kernels use vectors
explicitly: `load` returns sixteen neighboring elements, `+ - * /` work on them, and `store` writes
them back. LLVM splits the sixteen numbers over the registers that the processor has (two of AVX2,
one of AVX-512). Arrays must be contiguous and are addressed by one flat offset from their first
element. Offsets are checked only in the checked build (see CHECKED). The compiler does not reorder
operations: it adds a sum as written, so results are reproducible to the bit.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types
from numba.np import arrayobj

LANES = 16
WIDE_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f"))  # 32 of 16 float32
FUSE = ("contract",)  # a·b + c may become one instruction; nothing else may change
Code = Callable[..., Any]
Number = Any  # a scalar of the arrays' dtype
F = TypeVar("F", bound=Callable[..., Any])


CHECKED = os.environ.get("SABTUNE_CHECKED_KERNELS") == "1"
"""Whether this process compiles the checked build of the kernels, which is for tests only.

In the checked build, a kernel raises IndexError if an element that it reads or writes is not within
its array. `prefetch` is exempt: it reads nothing, and a hint for an address outside has no effect.
"""

BARE: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
"""Options of numba. No function allocates an array, so reference counting is off; it took a tenth
of the time."""

if CHECKED:
    BARE["boundscheck"] = True
    # numba counts a negative index from the end; no kernel relies on that
    arrayobj.fix_integer_index = lambda context, builder, kind, index, size: context.cast(
        builder, index, kind, types.intp
    )


def compiled(function: F) -> F:
    """Compile a small function that kernels call into each of its callers.

    A call would pass every array in seven or more registers, which takes as long as a small sum.
    """
    return cast(F, numba.njit(forceinline=True, **BARE)(function))


def phase(function: F) -> F:
    """Make a function part of each kernel that calls it, before numba compiles the kernel.

    Use this for the long phases of a kernel. A `compiled` function is optimized by itself and then
    again within its caller. With it, the kernels took 1.5 times as long to compile.
    """
    return cast(F, numba.njit(inline="always", **BARE)(function))


def called(function: F) -> F:
    """Compile a large function that kernels call, once for all of its callers."""
    return cast(F, numba.njit(**BARE)(function))


def instruction(function: Code) -> Code:
    """Turn a function that emits LLVM code into an operation for kernels."""
    return cast(Code, extending.intrinsic(function))


class LanesType(types.Type):
    """LANES numbers of one dtype in registers."""

    def __init__(self, dtype: Any):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@extending.register_model(LanesType)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Any):
        super().__init__(  # type: ignore[no-untyped-call]
            manager, lanes, ir.VectorType(manager.lookup(lanes.dtype).get_value_type(), LANES)
        )


def address_of(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.gep(data, [at])


def check_bounds(
    what: str, context: Any, builder: Any, array: Any, value: Any, first: Any, last: Any
) -> None:
    """Make the checked build raise IndexError unless `first` to `last` are offsets in the array."""
    if not CHECKED:
        return
    size = context.make_array(array)(context, builder, value).nitems
    below = builder.icmp_signed("<", first, first.type(0))
    above = builder.icmp_signed(">=", last, size)
    with cgutils.if_unlikely(builder, builder.or_(below, above)):  # type: ignore[no-untyped-call]
        cgutils.printf(builder, f"{what}: elements %lld to %lld of %lld\n", first, last, size)  # type: ignore[no-untyped-call]
        message = f"{what} is out of bounds of {array} in {builder.function.name}"
        context.call_conv.return_user_exc(builder, IndexError, (message,))


def check_lanes(what: str, context: Any, builder: Any, array: Any, value: Any, at: Any) -> None:
    """Make the checked build raise IndexError unless LANES elements from `at` on exist."""
    last = builder.add(at, at.type(LANES - 1)) if CHECKED else at
    check_bounds(what, context, builder, array, value, at, last)


def splat(builder: Any, number: Any) -> Any:
    vector = ir.VectorType(number.type, LANES)
    one = builder.insert_element(
        ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


@instruction
def load(typing: Any, array: Any, at: Any) -> Any:
    """Load the LANES elements of `array` from the flat offset `at` on."""
    size = array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        check_lanes("load", context, builder, array, *args)
        address = address_of(context, builder, array, *args)
        vector = ir.VectorType(address.type.pointee, LANES)
        return builder.load(builder.bitcast(address, vector.as_pointer()), align=size)

    return LanesType(array.dtype)(array, types.intp), code


@instruction
def store(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Store LANES elements in `array` from the flat offset `at` on."""
    size = array.dtype.bitwidth // 8

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        check_lanes("store", context, builder, array, *args[:2])
        address = address_of(context, builder, array, args[0], args[1])
        builder.store(args[2], builder.bitcast(address, args[2].type.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@instruction
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Prefetch the cache line that holds the element at the flat offset `at`, without waiting."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(address_of(context, builder, array, *args), byte)
        builder.call(ask, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@instruction
def spread(typing: Any, array: Any, at: Any) -> Any:
    """Load the element of `array` at the flat offset `at` into all LANES."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, at = args
        check_bounds("spread", context, builder, array, value, at, at)
        return splat(builder, builder.load(address_of(context, builder, array, *args)))

    return LanesType(array.dtype)(array, types.intp), code


@instruction
def lanes_of(typing: Any, number: Any) -> Any:
    """Return a number in all LANES."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat(builder, args[0])

    return LanesType(number)(number), code


@instruction
def ones(typing: Any, like: Any) -> Any:
    """Return 1 in all LANES, of the dtype of `like`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, [1.0] * LANES)

    return like(like), code


def _folded(fold: Code) -> Code:
    """Return an operation that reduces LANES numbers to one, by folding halves repeatedly."""

    def instruction_of(typing: Any, lanes: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (value,) = args
            index = ir.IntType(32)
            nothing = ir.Constant(value.type, ir.Undefined)
            width = LANES
            while width > 1:
                width //= 2
                parts = (range(width), range(width, 2 * width))
                low, high = (
                    builder.shuffle_vector(
                        value, nothing, ir.Constant(ir.VectorType(index, width), list(part))
                    )
                    for part in parts
                )
                value = fold(builder, low, high)
                nothing = ir.Constant(value.type, ir.Undefined)
            return builder.extract_element(value, ir.Constant(index, 0))

        return lanes.dtype(lanes), code

    return instruction(instruction_of)


total = _folded(lambda builder, a, b: builder.fadd(a, b))
largest = _folded(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _binary(name: str) -> Code:
    def instruction_of(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=FUSE)

        return a(a, b), code

    return instruction(instruction_of)


def _overload(symbol: Code, name: str) -> None:
    apply = _binary(name)

    extending.overload(symbol, jit_options={"forceinline": True})(
        lambda a, b: (lambda a, b: apply(a, b)) if isinstance(a, LanesType) and a == b else None
    )


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _overload(_symbol, _name)


def _select(sign: str) -> Code:
    def instruction_of(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bound, value = args
            return builder.select(builder.fcmp_ordered(sign, bound, value), bound, value)

        return a(a, b), code

    return instruction(instruction_of)


at_most = _select("<")  # at_most(bound, v): the lesser; NaN where v is NaN
at_least = _select(">")  # at_least(bound, v): the greater; NaN where v is NaN


# Coefficients of e^r for |r| <= ln 2 / 2, highest power first, without the final 1 + r. float32: a
# minimax polynomial to r^6 with an error of 4e-9 before rounding. float64: Taylor's polynomial to
# r^13 with an error of 1e-17.
_FLOAT = (1.381459879e-3, 8.368716575e-3, 4.166838899e-2, 1.666652113e-1, 4.999999404e-1)
_DOUBLE = tuple(
    1.0 / f
    for f in (6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2)
)
_FORMATS = {  # dtype: coefficients, bits, mantissa bits, bias, ln 2 in two parts, largest |x|
    types.float32: (_FLOAT, 32, 23, 127, (0.693359375, -2.12194440e-4), 87.0),
    types.float64: (_DOUBLE, 64, 52, 1023, (0.693145751953125, 1.42860682030941723212e-6), 708.0),
}


@instruction
def exp(typing: Any, lanes: Any) -> Any:
    """Return e^x of x clamped to ±87 (float32) or ±708 (float64): never 0, inf or subnormal."""
    powers, bits, mantissa, bias, (ln2_high, ln2_low), furthest = _FORMATS[lanes.dtype]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        word = ir.VectorType(ir.IntType(bits), LANES)

        def number(value: float) -> Any:
            return ir.Constant(x.type, [value] * LANES)

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=FUSE), c, flags=FUSE)

        for sign, bound in (("<", number(furthest)), (">", number(-furthest))):
            x = builder.select(builder.fcmp_ordered(sign, bound, x), bound, x)
        # adding a number this large rounds x·log2 e to an integer, in the mantissa's lowest bits
        large = number(1.5 * 2.0**mantissa + bias)
        n = fused(x, number(1.4426950408889634), large)
        k = builder.fsub(n, large)
        r = fused(k, number(-ln2_high), x)
        r = fused(k, number(-ln2_low), r)
        e = number(powers[0])
        for power in powers[1:]:
            e = fused(e, r, number(power))
        e = fused(e, builder.fmul(r, r, flags=FUSE), builder.fadd(r, number(1.0)))
        n = builder.shl(builder.bitcast(n, word), ir.Constant(word, [mantissa] * LANES))
        return builder.fmul(e, builder.bitcast(n, x.type), flags=FUSE)

    return lanes(lanes), code


@instruction
def inverse(typing: Any, lanes: Any) -> Any:
    """Return 1 / x, within one or two roundings, for x up to 1e38 in float32.

    If the processor can estimate it to 14 bits, one step of Newton's method refines the estimate.
    Otherwise the operation divides.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        one = ir.Constant(x.type, [1.0] * LANES)
        if not (WIDE_REGISTERS and lanes.dtype == types.float32):
            return builder.fdiv(one, x)
        mask = ir.IntType(LANES)
        kind = ir.FunctionType(x.type, [x.type, x.type, mask])
        name = "llvm.x86.avx512.rcp14.ps.512"
        estimate = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        r = builder.call(estimate, [x, one, ir.Constant(mask, -1)])
        error = builder.fsub(one, builder.fmul(x, r, flags=FUSE), flags=FUSE)
        return builder.fadd(r, builder.fmul(r, error, flags=FUSE), flags=FUSE)

    return lanes(lanes), code


@instruction
def root(typing: Any, lanes: Any) -> Any:
    """Return √x, correctly rounded."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        kind = ir.FunctionType(x.type, [x.type])
        name = f"llvm.sqrt.v{LANES}f{lanes.dtype.bitwidth}"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, [x])

    return lanes(lanes), code


@instruction
def where_less(typing: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    """Return `then` where a < b, elsewhere `otherwise`, also where a or b is NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return a(a, b, then, otherwise), code


@instruction
def any_above(typing: Any, lanes: Any, bound: Any) -> Any:
    """Return whether one of the LANES is greater than the number `bound`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", args[0], splat(builder, args[1]))
        mask = builder.bitcast(above, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))

    return types.boolean(lanes, lanes.dtype), code
