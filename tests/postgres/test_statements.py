"""SQL with named parameters, and SQLAlchemy's statements, as asyncpg takes them."""

from typing import Any

from sqlalchemy import Integer, column, select, table

from user_service.postgres import selects
from user_service.postgres.selects import compile_with_values
from user_service.postgres.statements import text

THINGS = table("things", column("id", Integer), column("size", Integer))


def test_a_text_has_its_arguments_in_the_order_of_their_numbers() -> None:
    statement = text("SELECT :second, :first, CAST(:second AS integer)")

    assert statement.sql == "SELECT $1, $2, CAST($1 AS integer)"
    assert statement.arguments({"first": 1, "second": 2, "unused": 3}) == [2, 1]


def test_casts_slices_and_times_are_no_parameters() -> None:
    sql = "SELECT v.metadata::jsonb, (ARRAY[1, 2])[1:2], '12:30'::time"

    assert text(sql) == (sql, ())


def larger_than(size: int, limit: int) -> tuple[str, list[Any]]:
    statement, values = compile_with_values(select(THINGS.c.id).where(THINGS.c.size > size).limit(limit))
    return statement.sql, statement.arguments(values)


def test_statements_that_differ_in_values_only_are_compiled_once() -> None:
    first = larger_than(3, 10)
    known = len(selects.shapes)
    second = larger_than(4, 20)

    assert len(selects.shapes) == known
    assert first[0] == second[0]
    assert (first[1], second[1]) == ([3, 10], [4, 20])


def test_statements_of_other_shapes_are_compiled_apart() -> None:
    smaller, _ = compile_with_values(select(THINGS.c.id).where(THINGS.c.size < 3))

    assert smaller.sql != larger_than(3, 10)[0]


def test_the_number_of_compiled_shapes_is_bounded() -> None:
    for number in range(selects.COMPILED_SHAPES + 10):
        compile_with_values(select(column(f"c{number}")))

    assert len(selects.shapes) <= selects.COMPILED_SHAPES
