"""Is every notebook easy to read? `python scripts/lint.py [NOTEBOOK ...]` names each cell that is not, and `--table` shows the sizes.
A line has at most 120 characters, an exported cell 40 lines and one public function or class (tiny ones may share, up to 15 lines
together), no line joins a statement to an `if`, `for`, `raise` or `return` by a semicolon, and a visible code cell shows something."""
import ast, re, sys
from pathlib import Path
from statistics import median, quantiles

import nbformat

WIDTH, LINES, TINY = 120, 40, 15
CONTROL = re.compile(r'\s*(if|for|while|with|try|raise|return|yield|continue|break)\b')


def flags(cell) -> set[str]:
    "A cell's directives: {'export'}, {'hide'} ..."
    return {m[1].replace(' ', '') for m in re.finditer(r'^#\|\s*([\w-]+(?::\s*\w+)?)', cell.source, re.M)}


def code_lines(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip() and not line.startswith('#|')]


def public(tree) -> list[str]:
    "The functions and classes that a cell gives to its module's users"
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith('_')]


def joined(tree) -> list[int]:
    "Lines on which a semicolon joins statements, one of which decides, repeats, raises or returns"
    control = ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Raise, ast.Return, ast.Continue, ast.Break
    found = set()
    for node in ast.walk(tree):
        for name in ('body', 'orelse', 'finalbody'):
            block = getattr(node, name, None)
            if not isinstance(block, list): continue
            for a, b in zip(block, block[1:]):
                if a.end_lineno == b.lineno and (isinstance(a, control) or isinstance(b, control)): found.add(b.lineno)
    return sorted(found)


def python(cell) -> str:
    return '\n'.join('pass' if re.match(r'\s*[%!]', line) else line for line in cell.source.splitlines())


def exported_faults(cell) -> list[str]:
    "What makes an exported cell hard to read"
    lines, tree = code_lines(cell), ast.parse(python(cell))
    faults = [f'a line of {len(line)} characters: {line.strip()[:50]} ...' for line in lines if len(line) > WIDTH]
    if len(lines) > LINES: faults.append(f'{len(lines)} lines')
    if len(names := public(tree)) > 1 and len(lines) > TINY: faults.append(f'{" and ".join(names)} share a cell')
    return faults + [f'a semicolon hides what line {n} does' for n in joined(tree)]


def shows(cell) -> bool | None:
    "Whether a visible code cell has an output; None for a cell that is exported or hidden"
    if flags(cell) & {'export', 'exports', 'hide', 'eval:false', 'default_exp', 'echo:false'}: return None
    return bool(cell.outputs)


def main() -> int:
    paths = [Path(p) for p in sys.argv[1:] if not p.startswith('--')] or sorted(Path('nbs').rglob('*.ipynb'))
    sizes, seen, bad = [], [], 0
    for path in paths:
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
        exported = [c for c in cells if 'export' in flags(c)]
        mine, shown = [len(code_lines(c)) for c in exported], [s for c in cells if (s := shows(c)) is not None]
        for c in exported:
            for fault in exported_faults(c): print(f'{path}#{c.id}: {fault}'); bad += 1
        if '--silent-cells' in sys.argv: print(*[f'{path}#{c.id}: shows nothing' for c in cells if shows(c) is False], sep='\n')
        if '--table' in sys.argv: print(f'{path.stem:20} {len(mine):4} exported cells, median {median(mine or [0]):4}, longest {max(mine, default=0):3}; '
                                        f'{sum(shown)} of {len(shown)} visible cells show something')
        sizes += mine; seen += shown
    share = sum(seen) / max(len(seen), 1)
    if len(sizes) > 1:
        print(f'exported cells: {len(sizes)}, median {median(sizes)} lines, p90 {quantiles(sizes, n=10)[-1]:.0f}; visible code cells that show something: {share:.0%}')
    return int(bad > 0)


if __name__ == '__main__': sys.exit(main())
