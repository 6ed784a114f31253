"""Redraw every file in figures/ from the CSVs in data/results/: same input, same bytes, whatever the machine's own settings.
`scripts/figures.py [RESULTS [FIGURES]]`. Which table is drawn how stands in `cgd.figures.DRAWINGS`; scripts/pictures.py makes report.png and trace.png."""
import io, sys
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
matplotlib.rcdefaults()   # a matplotlibrc of this machine must not show
import yaml
from matplotlib import pyplot as plt
from cgd.core import CgdError, write_atomic
from cgd.figures import DRAWINGS, draw_folder, plot_overview
from cgd.plan import Plan, RunConfig
from cgd.results import caption

RESULTS, FIGURES = map(Path, [*sys.argv[1:], *['data/results', 'figures'][len(sys.argv) - 1:]])


def about(folder: Path) -> str:
    "What a reader of these numbers has to know: of a run from its config.yaml, of a sweep from its sweep.yaml"
    if (folder/'config.yaml').exists(): return caption(Plan(RunConfig.load(folder/'config.yaml')))
    if not (folder/'sweep.yaml').exists(): return ''
    sweep = yaml.safe_load((folder/'sweep.yaml').read_text())
    plan = Plan(RunConfig.make(sweep.get('run', {})))
    run = plan.cfg
    own = any('n_problems' in (arm.get(k) or {}) for arm in (sweep.get('arms') or {}).values() for k in ('set', 'grid'))   # an arm that has another number
    teachers = ' and '.join('oracle teacher' if t.oracle else f'teacher {t.spec}' for t in plan.teachers)
    size = '' if own else f'{run.n_problems or "all"} '
    return f'{folder.name}: student {run.student}, {teachers}, trained on {size}problems of {run.problems}'


def save(name: str, figure) -> str:
    "Save one figure and say its name"
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, metadata={'Software': None})   # the version of matplotlib would change the bytes
    plt.close(figure)
    write_atomic(FIGURES/f'{name}.png', picture.getvalue())
    return name


def main():
    folders = sorted(p for p in RESULTS.iterdir() if p.is_dir())
    drawn = [save('overview', plot_overview().figure)] + [save(*figure) for folder in folders for figure in draw_folder(folder, about(folder))]
    print(f'{len(drawn)} figures in {FIGURES}/')
    if absent := [file for file in DRAWINGS if not any((folder/file).exists() for folder in folders)]: print(f'not drawn, no such table in {RESULTS}/*/: {", ".join(absent)}')
    if stale := [f.name for f in sorted(FIGURES.glob('*.png')) if f.stem not in [*drawn, 'report', 'trace']]: print(f'stale, no table draws them: {", ".join(stale)}')


if __name__ == '__main__':
    try: main()
    except CgdError as e: sys.exit(str(e))
