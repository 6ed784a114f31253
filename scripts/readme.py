"Make README.md from nbs/index.ipynb: outputs kept, directives and hidden cells dropped. `--check` only says whether it is in sync."
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

HIDDEN = ('#| hide', '#| default_exp')


def shown(cell):
    "A cell as the README has it: of a cell marked `echo: false`, what it printed"
    if '#| echo: false' not in cell.source: return cell
    text = ''.join(o.text for o in cell.outputs if o.output_type == 'stream')
    return nbformat.v4.new_markdown_cell(f'```text\n{text.rstrip()}\n```')


def readme(notebook: str) -> str:
    nb = nbformat.read(notebook, 4)
    nb.cells = [shown(c) for c in nb.cells if not c.source.startswith(HIDDEN)]
    for c in nb.cells: c.source = '\n'.join(line for line in c.source.splitlines() if not line.startswith('#|'))
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = body.replace('](../', '](')  # links are written for nbs/, the README lies one level up
    return '<!-- made from nbs/index.ipynb by scripts/readme.py; edit the notebook -->\n\n' + body.strip() + '\n'


if __name__ == '__main__':
    made, path = readme('nbs/index.ipynb'), Path('README.md')
    if '--check' in sys.argv: sys.exit(0 if path.read_text() == made else 'README.md is not what nbs/index.ipynb makes: run `make export`')
    path.write_text(made)
