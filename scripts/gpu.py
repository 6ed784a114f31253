"""What gpu_check.sh and gpu_study.sh have in common; run from the repository's root.

    python scripts/gpu.py about                  # the card and the versions, as JSON; an error without a card
    python scripts/gpu.py cells [--list]         # run every notebook that has a `#| cuda` cell, that cell included, without nbdev
    python scripts/gpu.py sweep STUDY.yaml OUT.yaml [--dry-run]   # the study at ten times its size, five seeds everywhere
    python scripts/gpu.py tables FOLDER PREFIX   # its tables, with card and versions in every row: PREFIX_scores.csv ...
"""
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

PACKAGES = 'torch', 'transformers', 'trl', 'peft', 'unsloth', 'vllm', 'datasets'


def about(dry: bool = False) -> dict:
    import torch
    if not torch.cuda.is_available() and not dry: sys.exit('gpu.py: torch sees no CUDA card; `--dry-run` tries the same on the CPU, tiny')
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f'no card: a dry run on {platform.machine()}'
    have = {p: importlib.metadata.version(p) for p in PACKAGES if any(importlib.metadata.distributions(name=p))}
    return dict(card=card, python=platform.python_version(), **have)


def flags(cell: dict) -> set:
    return set(re.findall(r'^#\|\s*(.+?)\s*$', ''.join(cell['source']), re.M))


def notebooks() -> dict[Path, list[dict]]:
    "Code cells of the notebooks that have a cell for CUDA"
    cells = {n: [c for c in json.loads(n.read_text())['cells'] if c['cell_type'] == 'code'] for n in sorted(Path('nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in n.parts}
    return {n: own for n, own in cells.items() if any('cuda' in flags(c) for c in own)}


def run_cells(listed: bool):
    "Run notebooks in plain Python: all that a test run runs, up to the last cell for CUDA"
    root, failed = Path.cwd(), 0
    for notebook, cells in notebooks().items():
        last = max(i for i, c in enumerate(cells) if 'cuda' in flags(c))
        print(f'{notebook}: {", ".join(c["id"] for c in cells if "cuda" in flags(c))}', flush=True)
        if listed: continue
        os.chdir(notebook.parent)
        names, start = {'__name__': '__main__'}, time.perf_counter()
        for cell in cells[:last + 1]:
            code = ''.join(cell['source'])
            if flags(cell) & {'slow', 'eval: false'} or 'nbdev_export' in code or code.startswith(('!', '%')): continue
            exec(compile(code, f'{notebook.name}#{cell["id"]}', 'exec'), names)   # what fails ends the check, with the cell's name
        os.chdir(root)
        print(f'ok: {notebook} in {time.perf_counter() - start:.0f} s', flush=True)


def larger(study: str, out: str, dry: bool):
    "The study's file for a GPU: ten times the problems, all test problems, five seeds of every arm; dry: as small as it can be, on the CPU"
    import yaml
    from cgd.core import write_atomic
    sweep = yaml.safe_load(Path(study).read_text())
    run, name = sweep['run'], f'gpu_{sweep["name"].removeprefix("cpu_")}'
    sweep |= dict(name=f'{name}_dry' if dry else name, folder='runs', results=f'runs/{name}_dry/tables' if dry else f'runs/{name}/tables')
    if dry:
        model = os.environ.get('CGD_STUDENT', 'smollm2')
        run |= dict(student=model, student_engine='hf', n_problems=4, benchmarks=['test:2'], draft=dict(max_new_tokens=8), eval=dict(max_new_tokens=8))
        run['engine'] = dict(dtype='float32')
        run['train'] = dict(backend='trl', epochs=1, batch_size=4, device_batch_size=4, max_length=512)
        first = next(iter(sweep['arms']))
        arm = sweep['arms'][first]
        sweep |= dict(arms={first: arm | dict(seeds=arm['seeds'][:1])}, contrasts=[c for c in sweep['contrasts'] if all(x.startswith(f'{first}/') for x in c)])
    else:
        run |= dict(n_problems=10 * run['n_problems'], benchmarks=[b.rpartition(':')[0] for b in run['benchmarks']])
        run['train'] = run['train'] | dict(device_batch_size=run['train']['batch_size'])
        for arm in sweep['arms'].values(): arm['seeds'] = list(range(5))
    write_atomic(out, yaml.safe_dump(sweep, sort_keys=False))


def tables(folder: str, prefix: str, dry: bool):
    "Copies of a sweep's tables, which say where they were made"
    import pandas as pd
    from cgd.core import write_atomic
    made = sorted(Path(folder).glob('*.csv'))
    if not made: sys.exit(f'gpu.py: {folder}: no tables here')
    known = about(dry)
    for table in made:
        rows = pd.read_csv(table).assign(card=known['card'], versions=' '.join(f'{k} {v}' for k, v in known.items() if k != 'card'))
        print(write_atomic(f'{prefix}_{table.name}', rows.to_csv(index=False, float_format='%.6g')))


if __name__ == '__main__':
    command, *words = sys.argv[1:] or ['']
    dry, words = '--dry-run' in words, [w for w in words if w != '--dry-run']
    if command == 'about': print(json.dumps(about(dry)))
    elif command == 'cells': run_cells('--list' in words)
    elif command == 'sweep': larger(*words, dry)
    elif command == 'tables': tables(*words, dry)
    else: sys.exit(__doc__)
