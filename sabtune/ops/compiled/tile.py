"""The innermost part of a matrix product: a tile of sums that stay in registers throughout."""

from __future__ import annotations

from typing import Any

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


def check_grid(
    what: str, context: Any, builder: Any, array: Any, value: Any, at: Any,
    strides: list[tuple[Any, Any]], width: int,
) -> None:  # fmt: skip
    """Make the checked build raise IndexError unless all of a grid's elements are there.

    They are `width` neighbors at every sum of `at` and, for each of the strides (stride, count),
    0 to count - 1 times that stride. A grid without elements is never out of bounds.
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


def tile(rows: int, vectors: int) -> Code:
    """A product's smallest part: its sums, `rows` times `vectors`, are in registers throughout.

    The operation adds to c_in, for each of the rows i and vectors n, Σ_k a_ik b_kn: a number, a_ik,
    times LANES neighbours, b_kn. c_in: n vectors and i times c_row behind c_at; a_ik: i times `row`
    and k times `step` behind `at`; b_kn: k times b_step and n times b_next behind b_at.
    """

    def instruction_of(
        typing: Any, a: Any, at: Any, row: Any, step: Any, b: Any, b_at: Any, b_step: Any,
        b_next: Any, count: Any, c: Any, c_at: Any, c_row: Any,
    ) -> Any:  # fmt: skip
        size = a.dtype.bitwidth // 8
        places = [(i, n) for i in range(rows) for n in range(vectors)]

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_, at_, row_, step_, b_, b_at_, b_step_, b_next_, count_, c_, c_at_, c_row_ = args
            index = ir.IntType(64)
            down, wide = index(rows), index(vectors)
            grids = (
                (a, a_, at_, [(row_, down), (step_, count_)], 1),
                (b, b_, b_at_, [(b_step_, count_), (b_next_, wide)], LANES),
                (c, c_, c_at_, [(c_row_, down), (index(LANES), wide)], LANES),
            )
            for name, grid in zip("abc", grids, strict=True):
                check_grid(f"tile's {name}", context, builder, *grid)
            start_a = address_of(context, builder, a, a_, at_)
            start_b = address_of(context, builder, b, b_, b_at_)
            start_c = address_of(context, builder, c, c_, c_at_)
            vector = ir.VectorType(start_a.type.pointee, LANES)

            def moved(address: Any, by: Any, times: int) -> Any:
                return builder.gep(address, [builder.mul(by, index(times))])

            def lanes_at(address: Any) -> Any:
                return builder.bitcast(address, vector.as_pointer())

            sums_at = {
                (i, n): lanes_at(moved(moved(start_c, c_row_, i), index(LANES), n))
                for i, n in places
            }
            first = {place: builder.load(sums_at[place], align=size) for place in places}
            before = builder.block
            body, end = builder.append_basic_block("tile"), builder.append_basic_block("tiled")
            builder.cbranch(builder.icmp_signed(">", count_, index(0)), body, end)

            builder.position_at_end(body)
            k = builder.phi(index)
            now_a, now_b = builder.phi(start_a.type), builder.phi(start_b.type)
            sums = {place: builder.phi(vector) for place in places}
            lanes = [
                builder.load(lanes_at(moved(now_b, b_next_, n)), align=size) for n in range(vectors)
            ]
            grown = {}
            for i in range(rows):
                number = splat(builder, builder.load(moved(now_a, row_, i)))
                for n in range(vectors):
                    term = builder.fmul(number, lanes[n], flags=FUSE)
                    grown[i, n] = builder.fadd(term, sums[i, n], flags=FUSE)
            next_k = builder.add(k, index(1))
            for now, start, then in (
                (k, index(0), next_k),
                (now_a, start_a, builder.gep(now_a, [step_])),
                (now_b, start_b, builder.gep(now_b, [b_step_])),
                *((sums[place], first[place], grown[place]) for place in places),
            ):
                now.add_incoming(start, before)
                now.add_incoming(then, body)
            builder.cbranch(builder.icmp_signed("<", next_k, count_), body, end)

            builder.position_at_end(end)
            found = {place: builder.phi(vector) for place in places}
            for place, value in found.items():
                value.add_incoming(first[place], before)
                value.add_incoming(grown[place], body)
            for place, value in found.items():
                builder.store(value, sums_at[place], align=size)
            return context.get_dummy_value()

        whole = types.intp
        return types.void(
            a, whole, whole, whole, b, whole, whole, whole, whole, c, whole, whole
        ), code

    return instruction(instruction_of)
