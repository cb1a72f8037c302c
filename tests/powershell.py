"""Parse PowerShell without PowerShell, and evaluate functions that build a list of strings.

Enough of the language for a plan: assignment, `+=`, `if`/`elseif`/`else`, `-eq`, `-ne`, strings with variables and
`return`. Anything else is an error and not a guess.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import tree_sitter
import tree_sitter_powershell

LANGUAGE = tree_sitter.Language(tree_sitter_powershell.language())
VARIABLE = re.compile(r"\$(\w+)")


class UnsupportedError(Exception):
    """A piece of PowerShell that this evaluator does not know."""


class Returned(Exception):  # carries a value, like StopIteration
    def __init__(self, value: Any) -> None:
        self.value = value


def parse(source: str) -> tree_sitter.Node:
    """The root of the syntax tree. SyntaxError names the first place that is not PowerShell."""
    root = tree_sitter.Parser(LANGUAGE).parse(source.encode()).root_node
    for node in walk(root):
        if node.type == "ERROR" or node.is_missing:
            raise SyntaxError(f"line {node.start_point.row + 1}: {text(node)[:80]!r}")
    return root


def walk(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def text(node: tree_sitter.Node) -> str:
    assert node.text is not None
    return node.text.decode()


def functions(root: tree_sitter.Node) -> dict[str, tree_sitter.Node]:
    found = [node for node in walk(root) if node.type == "function_statement"]
    return {text(node.named_children[0]): node for node in found}


def call(function: tree_sitter.Node, arguments: Sequence[str]) -> Any:
    """What the function returns for these positional arguments."""
    names = [text(node.named_children[-1])[1:] for node in walk(function) if node.type == "script_parameter"]
    variables: dict[str, Any] = dict(zip(names, arguments, strict=True))
    body = next(node for node in walk(function) if node.type == "statement_list")
    try:
        run(body, variables)
    except Returned as returned:
        return returned.value
    raise UnsupportedError("a function without return")


def run(statements: tree_sitter.Node, variables: dict[str, Any]) -> None:
    for statement in statements.named_children:
        inner = statement.named_children[0] if statement.named_children else statement
        if statement.type == "pipeline" and inner.type == "assignment_expression":
            assign(inner, variables)
        elif statement.type == "if_statement":
            branch(statement, variables)
        elif statement.type == "flow_control_statement" and text(statement).startswith("return"):
            raise Returned(value(statement.named_children[0], variables))
        elif statement.type != "comment":
            raise UnsupportedError(f"line {statement.start_point.row + 1}: {text(statement)[:80]}")


def assign(expression: tree_sitter.Node, variables: dict[str, Any]) -> None:
    target, operator, source = expression.named_children
    name, result = text(target)[1:], value(source, variables)
    if text(operator) == "+=":
        variables[name] = [*variables[name], result]
    elif text(operator) == "=":
        variables[name] = result
    else:
        raise UnsupportedError(text(expression))


def branch(statement: tree_sitter.Node, variables: dict[str, Any]) -> None:
    condition, block, *rest = statement.named_children
    if value(condition, variables):
        return run_block(block, variables)
    for clause in rest:
        if clause.type == "else_clause":
            return run_block(clause.named_children[0], variables)
        for elseif in clause.named_children:
            condition, block = elseif.named_children
            if value(condition, variables):
                return run_block(block, variables)
    return None


def run_block(block: tree_sitter.Node, variables: dict[str, Any]) -> None:
    for statements in block.named_children:
        run(statements, variables)


def value(node: tree_sitter.Node, variables: dict[str, Any]) -> Any:
    """The value of an expression; the many levels of the grammar with one child each are passed through."""
    match node.type:
        case "variable":
            return variables[text(node)[1:]]
        case "verbatim_string_characters":
            return text(node)[1:-1].replace("''", "'")
        case "expandable_string_literal":
            if "`" in text(node) or "$(" in text(node):
                raise UnsupportedError(text(node))
            return VARIABLE.sub(lambda found: variables[found[1]], text(node)[1:-1])
        case "array_expression" if not node.named_children:
            return []
    children = node.named_children
    if len(children) == 1:
        return value(children[0], variables)
    if node.type == "comparison_expression" and len(children) == 3:
        left, right = value(children[0], variables), value(children[2], variables)
        comparisons = {"-eq": left == right, "-ne": left != right}
        return comparisons[text(children[1])]
    raise UnsupportedError(f"{node.type}: {text(node)[:80]}")
