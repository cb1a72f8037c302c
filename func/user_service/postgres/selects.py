"""Statements that SQLAlchemy builds, as asyncpg takes them. This module imports SQLAlchemy."""

from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.compiler import SQLCompiler

from user_service.postgres.statements import Statement

DIALECT: Final = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
COMPILED_SHAPES: Final = 512

# By SQLAlchemy's cache key, which two statements share if they differ in values only.
shapes: dict[Any, SQLCompiler] = {}


def compile_select(statement: Select[Any]) -> Statement:
    """A statement whose values are all named parameters."""
    compiled = statement.compile(dialect=DIALECT)
    return Statement(str(compiled), tuple(compiled.positiontup or ()))


def compile_with_values(statement: Select[Any]) -> tuple[Statement, dict[str, Any]]:
    """A statement that has its values in it, and these values by name. It is compiled once for each shape."""
    key = statement._generate_cache_key()
    assert key is not None
    compiled = shapes.get(key.key)
    if compiled is None:
        compiled = statement.compile(dialect=DIALECT, cache_key=key)
        assert isinstance(compiled, SQLCompiler)
        if len(shapes) == COMPILED_SHAPES:
            shapes.clear()
        shapes[key.key] = compiled
    values = compiled.construct_params(extracted_parameters=key.bindparams)
    return Statement(compiled.string, tuple(compiled.positiontup or ())), dict(values)
