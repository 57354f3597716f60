"""The innermost part of a matrix product: a tile of sums that stay in registers throughout."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from sabtune.ops.compiled.simd import (
    CHECKED,
    FUSE,
    LANES,
    Code,
    address_of,
    check_bounds,
    instruction,
    splat,
)

INDEX = ir.IntType(64)


class Left(NamedTuple):
    """The left factor of a tile: number (i, k) is at the flat offset `at + i * row + k * step`."""

    array: Any
    at: int
    row: int
    step: int


class Right(NamedTuple):
    """The right factor: vector n of row k begins at `at + k * step + n * across`."""

    array: Any
    at: int
    step: int
    across: int


class Rows(NamedTuple):
    """The rows of a matrix: row i begins at `start + i * step` and is contiguous."""

    array: Any
    start: int
    step: int


def check_grid(
    what: str, context: Any, builder: Any, array: Any, value: Any, at: Any,
    strides: list[tuple[Any, Any]], width: int,
) -> None:  # fmt: skip
    """Make the checked build raise IndexError unless all of a grid's elements are there.

    strides: pairs (stride, count). The grid has `width` neighbors at each offset that is the sum of
    `at` and, for every pair, 0 to count - 1 times its stride. An empty grid is never out of bounds.
    """
    if not CHECKED:
        return
    zero = at.type(0)
    low = high = at
    empty = ir.Constant(ir.IntType(1), 0)
    for stride, count in strides:
        furthest = builder.mul(stride, builder.sub(count, count.type(1)))
        back = builder.icmp_signed("<", furthest, zero)
        low = builder.add(low, builder.select(back, furthest, zero))
        high = builder.add(high, builder.select(back, zero, furthest))
        empty = builder.or_(empty, builder.icmp_signed("<=", count, zero))
    low = builder.select(empty, zero, low)
    high = builder.select(empty, at.type(-1), builder.add(high, at.type(width - 1)))
    check_bounds(what, context, builder, array, value, low, high)


def unpack(context: Any, builder: Any, operand: Any, value: Any) -> tuple[Any, Any, list[Any]]:
    """Return the type and the value of an operand's array, and its offsets as 64-bit integers."""
    array, *numbers = operand.types
    offsets = [
        context.cast(builder, builder.extract_value(value, i), number, types.intp)
        for i, number in enumerate(numbers, start=1)
    ]
    return array, builder.extract_value(value, 0), offsets


def moved(builder: Any, address: Any, by: Any, times: int) -> Any:
    return builder.gep(address, [builder.mul(by, INDEX(times))])


def add_products(
    builder: Any, left: tuple[Any, Any, Any], right: tuple[Any, Any, Any], count: Any,
    first: dict[tuple[int, int], Any], size: int,
) -> dict[tuple[int, int], Any]:  # fmt: skip
    """Emit the loop of a tile over k; return its sums.

    left: the address of the first number, the strides of i and of k. right: the address of the
    first vector, the strides of k and of n. first: the sums before the loop, by their place (i, n).
    size: bytes of a number.
    """
    (start_a, row, step), (start_b, b_step, across) = left, right
    rows, vectors = (last + 1 for last in max(first))
    vector = ir.VectorType(start_a.type.pointee, LANES)
    before = builder.block
    body, end = builder.append_basic_block("tile"), builder.append_basic_block("tiled")
    builder.cbranch(builder.icmp_signed(">", count, INDEX(0)), body, end)

    builder.position_at_end(body)
    k = builder.phi(INDEX)
    now_a, now_b = builder.phi(start_a.type), builder.phi(start_b.type)
    sums = {place: builder.phi(vector) for place in first}
    lanes = [
        builder.load(
            builder.bitcast(moved(builder, now_b, across, n), vector.as_pointer()), align=size
        )
        for n in range(vectors)
    ]
    grown = {}
    for i in range(rows):
        number = splat(builder, builder.load(moved(builder, now_a, row, i)))
        for n in range(vectors):
            term = builder.fmul(number, lanes[n], flags=FUSE)
            grown[i, n] = builder.fadd(term, sums[i, n], flags=FUSE)
    next_k = builder.add(k, INDEX(1))
    for now, start, then in (
        (k, INDEX(0), next_k),
        (now_a, start_a, builder.gep(now_a, [step])),
        (now_b, start_b, builder.gep(now_b, [b_step])),
        *((sums[place], first[place], grown[place]) for place in first),
    ):
        now.add_incoming(start, before)
        now.add_incoming(then, body)
    builder.cbranch(builder.icmp_signed("<", next_k, count), body, end)

    builder.position_at_end(end)
    total = {place: builder.phi(vector) for place in first}
    for place, value in total.items():
        value.add_incoming(first[place], before)
        value.add_incoming(grown[place], body)
    return total


def tile(rows: int, vectors: int) -> Code:
    """Return the innermost operation of a product, with `rows` × `vectors` sums in registers.

    The operation takes `a: Left`, `b: Right`, the number of terms `count` and `c: Rows`. For each
    of the rows i and vectors n it adds Σ_k a_ik b_kn to vector n of row i of c: a_ik is a number,
    b_kn are LANES neighbors.
    """

    def instruction_of(typing: Any, a: Any, b: Any, count: Any, c: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_value, b_value, terms, c_value = args
            a_type, a_array, (at, row, step) = unpack(context, builder, a, a_value)
            b_type, b_array, (b_at, b_step, across) = unpack(context, builder, b, b_value)
            c_type, c_array, (c_at, c_row) = unpack(context, builder, c, c_value)
            down, wide = INDEX(rows), INDEX(vectors)
            grids = (
                (a_type, a_array, at, [(row, down), (step, terms)], 1),
                (b_type, b_array, b_at, [(b_step, terms), (across, wide)], LANES),
                (c_type, c_array, c_at, [(c_row, down), (INDEX(LANES), wide)], LANES),
            )
            for name, grid in zip("abc", grids, strict=True):
                check_grid(f"tile's {name}", context, builder, *grid)
            start_a = address_of(context, builder, a_type, a_array, at)
            start_b = address_of(context, builder, b_type, b_array, b_at)
            start_c = address_of(context, builder, c_type, c_array, c_at)
            vector = ir.VectorType(start_a.type.pointee, LANES).as_pointer()
            size = a_type.dtype.bitwidth // 8
            sums_at = {
                (i, n): builder.bitcast(
                    moved(builder, moved(builder, start_c, c_row, i), INDEX(LANES), n), vector
                )
                for i in range(rows)
                for n in range(vectors)
            }
            first = {place: builder.load(sums_at[place], align=size) for place in sums_at}
            total = add_products(
                builder, (start_a, row, step), (start_b, b_step, across), terms, first, size
            )
            for place, value in total.items():
                builder.store(value, sums_at[place], align=size)
            return context.get_dummy_value()

        return types.void(a, b, types.intp, c), code

    return instruction(instruction_of)
