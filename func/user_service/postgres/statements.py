"""SQLAlchemy's statements, compiled for asyncpg: each text once, and every other statement once for each shape."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Executable, TextClause
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT: Final = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
COMPILED_TEXTS: Final = 512
COMPILED_SHAPES: Final = 512

# By SQLAlchemy's cache key, which two statements share if they differ in values only.
shapes: dict[Any, SQLCompiler] = {}


class Compiled(NamedTuple):
    """A statement as SQL, and the names of its parameters in the order of their numbers."""

    sql: str
    names: tuple[str, ...]

    def arguments(self, values: Mapping[str, object]) -> list[Any]:
        return [values[name] for name in self.names]


def prepare(statement: Executable | Compiled, values: Mapping[str, object]) -> tuple[str, list[Any]]:
    """The SQL of a statement and its arguments, in the order of their numbers."""
    if isinstance(statement, TextClause):
        statement = compile_text(statement)
    if isinstance(statement, Compiled):
        return statement.sql, statement.arguments(values)
    key = statement._generate_cache_key()  # type: ignore[attr-defined]
    known = shapes.get(key.key)
    if known is None:
        known = compile_shape(statement, key)
    given = known.construct_params(dict(values), extracted_parameters=key.bindparams)
    return known.string, [given[name] for name in known.positiontup or ()]


@lru_cache(maxsize=COMPILED_TEXTS)
def compile_text(statement: TextClause) -> Compiled:
    return compile_statement(statement)


def compile_statement(statement: Executable) -> Compiled:
    """A statement whose values are all named parameters."""
    compiled = as_sql(statement.compile(dialect=DIALECT))  # type: ignore[attr-defined]
    return Compiled(compiled.string, tuple(compiled.positiontup or ()))


def compile_shape(statement: Executable, key: Any) -> SQLCompiler:
    compiled = as_sql(statement.compile(dialect=DIALECT, cache_key=key))  # type: ignore[attr-defined]
    if len(shapes) == COMPILED_SHAPES:
        shapes.clear()
    shapes[key.key] = compiled
    return compiled


def as_sql(compiled: object) -> SQLCompiler:
    assert isinstance(compiled, SQLCompiler)
    return compiled
