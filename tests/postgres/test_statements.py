"""SQLAlchemy's statements as asyncpg takes them."""

from sqlalchemy import Integer, column, select, table, text

from user_service.postgres import statements
from user_service.postgres.statements import prepare

THINGS = table("things", column("id", Integer), column("size", Integer))


def test_a_text_has_its_arguments_in_the_order_of_their_numbers() -> None:
    statement = text("SELECT :second, :first, CAST(:second AS integer)")

    assert prepare(statement, {"first": 1, "second": 2, "unused": 3}) == ("SELECT $1, $2, CAST($1 AS integer)", [2, 1])


def test_statements_that_differ_in_values_only_are_compiled_once() -> None:
    def larger_than(size: int, limit: int) -> tuple[str, list[int]]:
        return prepare(select(THINGS.c.id).where(THINGS.c.size > size).limit(limit), {})

    first = larger_than(3, 10)
    known = len(statements.shapes)
    second = larger_than(4, 20)

    assert len(statements.shapes) == known
    assert first[0] == second[0]
    assert (first[1], second[1]) == ([3, 10], [4, 20])


def test_statements_of_other_shapes_are_compiled_apart() -> None:
    smaller, _ = prepare(select(THINGS.c.id).where(THINGS.c.size < 3), {})
    larger, _ = prepare(select(THINGS.c.id).where(THINGS.c.size > 3), {})

    assert smaller != larger


def test_the_number_of_compiled_shapes_is_bounded() -> None:
    for number in range(statements.COMPILED_SHAPES + 10):
        prepare(select(column(f"c{number}")), {})

    assert len(statements.shapes) <= statements.COMPILED_SHAPES
