# SPDX-License-Identifier: GPL-2.0-or-later
"""Every rule that the code can refuse with has its page in docs/reference/rules, and no other.

The rules are read from the source, without running it: every call of a class that carries a rule
(``Reason``, and what becomes one later) names it as a constant, or as something that is looked up
here. What cannot be looked up fails the test, so no rule can hide behind a variable.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from livegraft.fix import kind
from livegraft.kbuild import special

SOURCE = Path(__file__).parents[2] / "src"
PAGES = Path(__file__).parents[2] / "docs" / "reference" / "rules"
TESTS = Path(__file__).parents[1]

TABLES: Mapping[tuple[str, str], Callable[[], Iterable[str]]] = {
    ("livegraft.fix.kind", "reason_for"): lambda: kind._MESSAGES,
    ("livegraft.kbuild.special", "_reason"): lambda: special.Product,
}
"""Functions that take a rule from a table: module and function -> the rules that it may take."""

PASSED_ON = frozenset({("livegraft.cli.compare", "_text")})
"""Functions that make a reason again of one that was made elsewhere."""

HEADINGS = ("What it means", "Why it is refused", "What to do", "Example")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unknown(Exception):
    """It cannot be told from the source which rule a call names."""


@dataclass(slots=True)
class Rules:
    """What a search found.

    Args:
        places: rule -> the functions that name it.
        looked_up: the entries of TABLES and PASSED_ON that were needed.
    """

    places: dict[str, set[str]] = field(default_factory=dict)
    looked_up: set[tuple[str, str]] = field(default_factory=set)


def modules(root: Path = SOURCE) -> dict[str, ast.Module]:
    """All modules below a folder by name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in sorted(root.rglob("*.py"))
    }


def carriers(trees: Mapping[str, ast.Module]) -> dict[str, int]:
    """The classes with a field ``rule``: name -> its position among the fields."""
    found = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [
                    each.target.id
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                ]
                if "rule" in fields:
                    found[node.name] = fields.index("rule")
    return found


def collect(trees: Mapping[str, ast.Module]) -> Rules:
    """All rules that are named anywhere.

    Raises:
        Unknown: a rule cannot be told from the source.
    """
    known = carriers(trees)
    rules = Rules()
    for name, tree in trees.items():
        for function, call in _calls(tree, known):
            place = (name, function.name if function else "")
            for rule in _named(place, function, call, known, rules):
                rules.places.setdefault(rule, set()).add(".".join(place))
    return rules


def _calls(tree: ast.Module, known: Collection[str]) -> Iterator[tuple[Function | None, ast.Call]]:
    """The calls that make a carrier, each with the innermost function around it."""

    def visit(
        node: ast.AST, function: Function | None
    ) -> Iterator[tuple[Function | None, ast.Call]]:
        if isinstance(node, Function):
            function = node
        if isinstance(node, ast.Call) and _last(node.func) in known:
            yield function, node
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    return visit(tree, None)


def _last(node: ast.expr) -> str:
    """``Reason`` of ``Reason`` and of ``errors.Reason``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _named(
    place: tuple[str, str],
    function: Function | None,
    call: ast.Call,
    known: Mapping[str, int],
    rules: Rules,
) -> Iterable[str]:
    if place in PASSED_ON:
        rules.looked_up.add(place)
        return ()
    given = [each.value for each in call.keywords if each.arg == "rule"]
    position = known[_last(call.func)]
    given += call.args[position : position + 1]
    if len(given) != 1 or any(isinstance(each, ast.Starred) for each in call.args):
        raise Unknown(f"{'.'.join(place)}, line {call.lineno}: names no rule")
    try:
        return _values(place[0], function, given[0])
    except Unknown as error:
        if place in TABLES:
            rules.looked_up.add(place)
            return [str(rule) for rule in TABLES[place]()]
        raise Unknown(f"{'.'.join(place)}, line {call.lineno}: {error}") from error


def _values(module: str, function: Function | None, node: ast.expr) -> set[str]:
    """The strings that an expression may be."""
    match node:
        case ast.Constant(value=str(value)):
            return {value}
        case ast.IfExp(body=body, orelse=orelse):
            return _values(module, function, body) | _values(module, function, orelse)
        case ast.Call(func=ast.Name(id="str"), args=[inner], keywords=[]):
            return _values(module, function, inner)
        case ast.Attribute(attr="rule"):
            return set()  # of a carrier, which was made elsewhere
        case ast.Name(id=name) if assigned := list(_assigned(function, name)):
            return set().union(*(_values(module, function, each) for each in assigned))
    return {_imported(module, node)}


def _assigned(function: Function | None, name: str) -> Iterator[ast.expr]:
    """What a function assigns to a name of its own; an unknown thing if it is a parameter."""
    if function is None:
        return
    given = function.args
    parameters = (*given.posonlyargs, *given.args, *given.kwonlyargs)
    if name in (each.arg for each in parameters):
        raise Unknown(f"{name} is a parameter")
    for each in ast.walk(function):
        if isinstance(each, ast.Assign) and any(_last(one) == name for one in each.targets):
            yield each.value


def _imported(module: str, node: ast.expr) -> str:
    """A constant or a member of an enum, by importing the module."""
    names = ast.unparse(node).split(".")
    found: object = importlib.import_module(module)
    for name in names:
        if not name.isidentifier() or not hasattr(found, name):
            raise Unknown(f"{ast.unparse(node)} is neither a constant nor a member of an enum")
        found = getattr(found, name)
    if not isinstance(found, str):
        raise Unknown(f"{ast.unparse(node)} is no string")
    return str(found)


def differences(rules: Mapping[str, Collection[str]], pages: Collection[str]) -> list[str]:
    """What is wrong with a set of pages."""
    without = sorted({*rules} - {*pages})
    return [
        *(f"{rule}: no page ({', '.join(sorted(rules[rule]))})" for rule in without),
        *(f"{page}: no code refuses with it" for page in sorted({*pages} - {*rules})),
    ]


def written() -> list[str]:
    """The names of the pages."""
    return sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")


def test_every_rule_has_a_page_and_every_page_a_rule() -> None:
    problems = differences(collect(modules()).places, written())
    assert not problems, "\n".join(problems)


def test_no_table_is_listed_here_in_vain() -> None:
    assert collect(modules()).looked_up == {*TABLES, *PASSED_ON}


def test_the_index_has_every_page_once_and_in_order() -> None:
    text = (PAGES / "index.md").read_text("utf-8")
    linked = re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\) \|", text, re.MULTILINE)
    assert sorted(name for name, _ in linked) == written()
    assert [target for _, target in linked] == [f"{name}.md" for name, _ in linked]


@pytest.mark.parametrize("page", written())
def test_the_form_of_a_page(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text("utf-8")
    assert text.startswith(f"# {page}\n")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == HEADINGS
    (example,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    assert example.startswith("$ ")
    assert re.search(rf"^{re.escape(page)}\s", example, re.MULTILINE), "the rule is not shown"
    assert text.endswith("[All rules](index.md)\n")
    assert max(map(len, text.split("```")[0].splitlines())) <= 100


def test_each_rule_refuses_something_in_a_test() -> None:
    named = {path.name.partition(".")[0] for path in (TESTS / "data/refused").iterdir()}
    for path in TESTS.rglob("*.py"):
        if path != Path(__file__):
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            named |= {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    assert not set(written()) - named


def test_the_page_of_cases_names_tests_that_are_there() -> None:
    rows = re.findall(r"`(tests/\S+\.py)::(\w+)`", (PAGES.parent / "cases.md").read_text("utf-8"))
    assert len(rows) > 30
    for file, function in rows:
        tree = ast.parse((TESTS.parent / file).read_text("utf-8"))
        assert any(isinstance(each, Function) and each.name == function for each in tree.body), (
            f"{file} has no {function}"
        )


# -- the search finds what it should, and fails where it should -----------------------------------

CARRIER = """
class Reason:
    rule: str
    object: str
class Odd:
    object: str
    rule: str
"""


def search(code: str, module: str = "livegraft.kernel.symbols") -> set[str]:
    return set(collect({module: ast.parse(CARRIER + code)}).places)


@pytest.mark.parametrize(
    ("code", "rules"),
    [
        ("Reason('a', x)", {"a"}),
        ("errors.Reason(object=x, rule='a')", {"a"}),
        ("def f():\n    yield Odd(x, 'b')", {"b"}),
        ("def f(odd):\n    yield Reason(odd.rule, odd.object)", set()),
        ("Reason('a' if x else 'b', x)", {"a", "b"}),
        ("def f():\n    rule = 'a' if x else 'b'\n    return Reason(rule, x)", {"a", "b"}),
        ("Reason(RULE, x)", {"unresolved-reference"}),
    ],
)
def test_the_search_finds_each_way_to_name_a_rule(code: str, rules: set[str]) -> None:
    assert search(code) == rules


def test_the_search_finds_members_of_enums() -> None:
    assert search("Reason(str(Kind.VDSO), x)", "livegraft.fix.units") == {"vdso"}


@pytest.mark.parametrize(
    "code",
    [
        "Reason(nowhere, x)",
        "Reason(f'{x}-changed', x)",
        "Reason(*x)",
        "Reason(**x)",
        "def f(rule):\n    return Reason(rule, x)",
        "def f():\n    rule = g()\n    return Reason(rule, x)",
        "Reason(table[x], y)",
        "Reason(Reason, x)",
    ],
)
def test_the_search_fails_if_a_rule_cannot_be_told(code: str) -> None:
    with pytest.raises(Unknown):
        search(code)


def test_a_missing_and_a_superfluous_page_are_found() -> None:
    assert differences({"a": {"m.f"}, "b": {"m.g"}}, ["b", "c"]) == [
        "a: no page (m.f)",
        "c: no code refuses with it",
    ]
