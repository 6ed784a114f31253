"What no single cell can see: a module is made of many cells, and a name that two of them give is silently the later one's"
import ast
from collections import Counter
from pathlib import Path

import pytest

MODULES = sorted(p for p in (Path(__file__).parent.parent/'cgd').glob('*.py') if p.name != '_modidx.py')


def names_given(source: str) -> Counter:
    "How often a module's own level defines or assigns each name"
    given = Counter()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): given[node.name] += 1
        elif isinstance(node, ast.Assign):
            given.update(n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    return given


@pytest.mark.parametrize('module', MODULES, ids=lambda p: p.stem)
def test_every_name_is_given_once(module):
    assert [name for name, times in names_given(module.read_text()).items() if times > 1] == []


def test_the_check_can_fail():
    assert names_given('_A = 1\ndef f(): pass\n_A, b = 2, 3')['_A'] == 2
