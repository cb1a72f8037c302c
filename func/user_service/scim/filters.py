"""SCIM filters (RFC 7644, 3.4.2.2) as conditions of the service's own search.

Personal data is sealed, so that only what has an index can be searched for. A filter that names one user at least, as
`userName eq "ada" and title eq "Countess"` does, may say anything else: the users it names are read, and the library
decides which of them match.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from scim2_models import InvalidFilterException, ScimFilter
from scim2_models.path import (
    AttrPath,
    CompareOperator,
    Comparison,
    FilterNode,
    FilterVisitor,
    LogicalExpr,
    LogicalOperator,
    Not,
    Present,
    ValuePath,
)

from user_service.scim.mapping import CORE, RESOURCE_TYPE
from user_service.users import conditions
from user_service.users.conditions import EVERYONE, Condition, Constant, ExternalIdStarts, HasStatus, Key, Named, Time
from user_service.values.timestamps import parse_rfc3339

MAX_TERMS: Final = 200
SEARCHABLE: Final = (
    "Filters can compare userName, externalId, id and emails.value by eq and ne, externalId by sw, active by eq and "
    "ne, meta.created and meta.lastModified by eq, ne, gt, ge, lt and le, and these by pr; anything else together with "
    "a userName, externalId, id or emails.value that must be equal."
)
INACTIVE: Final = HasStatus(frozenset({"pending", "suspended"}))
ACTIVE: Final = HasStatus(frozenset({"active"}))
KEYS: Final[Mapping[str, Key]] = {
    "id": Key.ID,
    "username": Key.USERNAME,
    "externalid": Key.EXTERNAL_ID,
    "emails": Key.EMAIL,
    "emails.value": Key.EMAIL,
}
TIMES: Final[Mapping[str, Time]] = {"meta.created": Time.CREATED, "meta.lastmodified": Time.UPDATED}
ORDERS: Final = {
    CompareOperator.gt: conditions.Comparison.MORE,
    CompareOperator.ge: conditions.Comparison.AT_LEAST,
    CompareOperator.lt: conditions.Comparison.LESS,
    CompareOperator.le: conditions.Comparison.AT_MOST,
    CompareOperator.eq: conditions.Comparison.EQUAL,
}
# What every user has.
ALWAYS_PRESENT: Final = frozenset({"id", "username", "emails", "emails.value", "active", "schemas", "meta", *TIMES})


def translate(scim_filter: ScimFilter[Any]) -> Condition:
    """The condition that the users meet which match a filter; for a narrow one (see `conditions.is_narrow`), at least
    these. Raises InvalidFilterException for what would take a read of every user.
    """
    translator = Translator()
    condition = translator.visit(scim_filter.ast)
    if translator.terms > MAX_TERMS:
        raise InvalidFilterException(detail=f"The filter has more than {MAX_TERMS} comparisons.")
    if translator.unsupported and not conditions.is_narrow(condition):
        raise InvalidFilterException(detail=f"This can't be searched for: {translator.unsupported}. {SEARCHABLE}")
    return condition


class Translator(FilterVisitor[Condition]):
    """Translates the nodes of a filter. One that has no condition becomes EVERYONE and is noted in `unsupported`."""

    def __init__(self) -> None:
        self.unsupported: str | None = None
        self.terms = 0
        # The attribute into which a value filter, as in `emails[value eq "x"]`, selects.
        self.within: str | None = None

    def visit_logical_expr(self, node: LogicalExpr) -> Condition:
        terms = tuple(map(self.visit, node.terms))
        return conditions.All(terms) if node.op == LogicalOperator.and_ else conditions.AnyOf(terms)

    def visit_not(self, node: Not) -> Condition:
        term = self.visit(node.expr)
        return conditions.Not(term)

    def visit_present(self, node: Present) -> Condition:
        self.terms += 1
        attribute = self.attribute(node.attr_path)
        if attribute == "externalid":
            return ExternalIdStarts("")
        return EVERYONE if attribute in ALWAYS_PRESENT else self.note(node)

    def visit_value_path(self, node: ValuePath) -> Condition:
        """`emails[value eq "x"]` selects the user of an address; one that says more is narrow."""
        outer, self.within = self.within, self.attribute(node.attr_path)
        try:
            if self.within != "emails":
                return self.note(node)
            inner = self.visit(node.val_filter)
        finally:
            self.within = outer
        if isinstance(inner, Named):
            return inner
        self.note(node)
        return inner if conditions.is_narrow(inner) else EVERYONE

    def visit_comparison(self, node: Comparison) -> Condition:
        self.terms += 1
        if node.op == CompareOperator.ne:
            return conditions.Not(self.equal(node))
        attribute = self.attribute(node.attr_path)
        if node.op == CompareOperator.sw and attribute == "externalid" and node.value:
            return ExternalIdStarts(str(node.value))
        if attribute in TIMES and node.op in ORDERS:
            return self.time(node, attribute)
        return self.equal(node) if node.op == CompareOperator.eq else self.note(node)

    def equal(self, node: Comparison) -> Condition:
        """The condition of `eq`, whatever the operator is."""
        attribute = self.attribute(node.attr_path)
        if attribute in KEYS and isinstance(node.value, str):
            return Named(KEYS[attribute], node.value)
        if attribute in TIMES:
            return self.time(node, attribute)
        if attribute == "active" and (active := parse_boolean(node.value)) is not None:
            return ACTIVE if active else INACTIVE
        if attribute == "meta.resourcetype":
            return Constant(node.value == RESOURCE_TYPE)
        return self.note(node)

    def time(self, node: Comparison, attribute: str) -> Condition:
        moment = parse_time(node.value)
        if moment is None:
            return self.note(node)
        return conditions.TimeIs(TIMES[attribute], ORDERS.get(node.op, conditions.Comparison.EQUAL), moment)

    def attribute(self, path: AttrPath) -> str:
        """The name of an attribute, in lower case, without the schema of users."""
        name = path.attr.lower() + (f".{path.sub_attr.lower()}" if path.sub_attr else "")
        if path.uri is not None and path.uri.lower() != CORE.lower():
            return f"{path.uri}:{name}"
        return name if self.within is None else f"{self.within}.{name}"

    def note(self, node: FilterNode) -> Condition:
        self.unsupported = self.unsupported or describe(node)
        return EVERYONE


def describe(node: FilterNode) -> str:
    """A node without the values, which may be personal."""
    match node:
        case Comparison():
            return f"{node.attr_path} {node.op.value}"
        case Present():
            return f"{node.attr_path} pr"
        case ValuePath():
            return f"{node.attr_path}[...]"
    return "this filter"


def parse_boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def parse_time(value: Any) -> datetime | None:
    """The moment that a text names, in UTC where it names no zone; None for what is no time."""
    try:
        return parse_rfc3339(value)
    except (TypeError, ValueError):
        pass
    try:
        return parse_rfc3339(f"{value}Z")
    except ValueError:
        return None
