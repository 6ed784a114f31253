"What no single cell can see: names given twice in a module, notebooks out of their order, links that lead nowhere"
import ast, json, re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for p in (ROOT/'cgd').glob('*.py') if p.name != '_modidx.py')
NUMBERED = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))


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


def module_of(notebook: Path) -> str | None:
    cells = json.loads(notebook.read_text())['cells']
    return next((m[1] for c in cells if (m := re.match(r'#\| *default_exp (\w+)', ''.join(c['source'])))), None)


def modules_imported(source: str) -> set[str]:
    "The modules of cgd that a module of cgd imports, at its top or inside a function"
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.module or '').startswith('cgd.')):
            found.add((node.module or '').removeprefix('cgd.'))
    return found


def test_numbers_are_unique_and_are_the_order_of_imports():
    numbers = {module_of(p) or p.stem: int(p.stem[:2]) for p in NUMBERED}
    assert [n for n, times in Counter(p.stem[:2] for p in NUMBERED).items() if times > 1] == []
    assert all(re.match(r'\d\d_[a-z]', p.stem) for p in NUMBERED)
    late = [(m.stem, other) for m in MODULES if m.stem in numbers
            for other in modules_imported(m.read_text()) if other in numbers and numbers[other] >= numbers[m.stem]]
    assert late == []
    assert modules_imported('from .core import a\ndef f(): from cgd.cli import main') == {'core', 'cli'}


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len((ROOT/'README.md').read_bytes()) <= 8192
    pages = {ROOT/'README.md': (ROOT/'README.md').read_text(), ROOT/'LOG.md': (ROOT/'LOG.md').read_text()}
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        cells = json.loads(path.read_text())['cells']
        pages[path] = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    broken = [(page.name, link) for page, text in pages.items() for link in re.findall(r'\]\(([^)#\s]+)', text)
              if not link.startswith(('http', 'attachment:')) and not (page.parent/link).exists()]
    assert broken == []
