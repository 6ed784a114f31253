"""Redraw every file in figures/ from the CSVs in data/results/: same input, same bytes, whatever the machine's own settings.
`scripts/figures.py [RESULTS [FIGURES]]`. Which table is drawn how stands in `cgd.figures.DRAWINGS`; scripts/pictures.py makes report.png and trace.png."""
import io, sys
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
matplotlib.rcdefaults()   # a matplotlibrc of this machine must not show
from matplotlib import pyplot as plt
from cgd.core import CgdError, write_atomic
from cgd.figures import DRAWINGS, _name_rows, _new_grid, draw_folder, figure_words, plot_overview, read_results
from cgd.plan import Plan, RunConfig
from cgd.results import caption
from cgd.sweep import SweepConfig, cells

RESULTS, FIGURES = map(Path, [*sys.argv[1:], *['data/results', 'figures'][len(sys.argv) - 1:]])


STUDIES, INDEX = '../nbs/studies', '../nbs/index.ipynb'
PAGES = dict(   # folder of the tables, or the figure itself -> the page that reads it
    claim=f'{STUDIES}/claims.ipynb', cpu='../nbs/42_figures.ipynb', cpu_study=f'{STUDIES}/cpu_study.ipynb', curves=f'{STUDIES}/curves.ipynb', expert='../nbs/53_expert.ipynb',
    relatives=f'{STUDIES}/relatives.ipynb', mending=f'{STUDIES}/mending.ipynb', on_policy=f'{STUDIES}/on_policy.ipynb', rivals='../nbs/guides/your_own.ipynb', engines='../nbs/guides/measured.ipynb', overview=INDEX, report=INDEX, trace=INDEX)
WORDS = dict(overview='The method in one picture.', engines='How fast each engine writes, and what its start takes.', report='The report of a run.', trace='A draft, its critique and the refinement.')
OLD = 'cpu_study', 'curves', 'rivals'   # made before 28 November 2026


def about(folder: Path) -> str:
    "What a reader of these numbers has to know"
    if folder.name == 'expert': return 'expert: 500 drafts of student smollm2 on problems of test, judged by teacher expert'
    text = settings(folder)
    return f'{text.rstrip(".")}. Of the student before its tokenizer was mended (LOG.md, 2026-11-28).' if folder.name in OLD else text


def settings(folder: Path) -> str:
    "Of a run from its config.yaml, of a sweep from its sweep.yaml"
    if (folder/'config.yaml').exists(): return caption(Plan(RunConfig.load(folder/'config.yaml')))
    if not (folder/'sweep.yaml').exists(): return ''
    plans = [Plan(cell.cfg) for cell in cells(SweepConfig.load(folder/'sweep.yaml'))]
    run = plans[0].cfg
    teachers = list(dict.fromkeys(t.spec for plan in plans for t in plan.teachers))
    size = '' if len({plan.cfg.n_problems for plan in plans}) > 1 else f'{run.n_problems or "all"} '
    return f'{folder.name}: student {run.student}, teacher{"s" * (len(teachers) > 1)} {", ".join(teachers)}, trained on {size}problems of {run.problems}'


def plot_engines(rows: list[dict]):
    "Of benchmarks/engines.py: speed by engine and number of prompts, and what a start takes; two panels a machine, medians with the lowest and the highest"
    machines = list(dict.fromkeys(r['machine'] for r in rows))
    figure, axes = _new_grid(len(machines), 2, 9, .5 + 2.4 * len(machines))
    for machine, (speed, start) in zip(machines, zip(axes[::2], axes[1::2])):
        own = [r for r in rows if r['machine'] == machine]
        engines, sizes = list(dict.fromkeys(r['engine'] for r in own)), sorted({r['prompts'] for r in own})
        high = .8 / len(sizes)
        for r in own:
            k, at = sizes.index(r['prompts']), engines.index(r['engine'])
            bars = [(speed, 'tokens_a_second', ('#9ecae1', '#2a6ea6', '#333333')[k], at - .4 + high * (k + .5), high)]
            if not k: bars.append((start, 'start_seconds', '#b3b3b3', at, high))
            for ax, name, color, y, thick in bars:
                middle, low, top = r[name], r[f'{name}_low'], r[f'{name}_high']
                ax.barh(y, middle, thick, color=color, xerr=[[middle - low], [top - middle]], error_kw=dict(lw=1, ecolor='#333333'), label=f'{r["prompts"]:.0f} prompts' if not at else None)
                ax.text(top, y, f'  {middle:.3g}', va='center', fontsize=8)
        _name_rows(speed, engines); _name_rows(start, [''] * len(engines))
        for ax in (speed, start): ax.margins(x=.12); ax.grid(axis='y', visible=False)
        speed.set_xlabel(f'tokens/s, {machine}', fontsize=9); start.set_xlabel('start-up (import and load), s', fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=3, frameon=False, fontsize=9)
    first = rows[0]
    figure.supxlabel(f'{first["model"]}, {first["dtype"]}, greedy, at most 128 tokens; medians of {first["rounds"]:.0f} rounds, lowest to highest', fontsize=8)
    return figure


def save(name: str, figure) -> str:
    "Save one figure and say its name"
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, metadata={'Software': None})   # the version of matplotlib would change the bytes
    plt.close(figure)
    write_atomic(FIGURES/f'{name}.png', picture.getvalue())
    return name


def write_list(names: list[str]):
    "figures/README.md: what each figure shows and where it is read"
    def row(name):
        page = PAGES.get(name.split('-')[0], '')
        return f'| [{name}]({name}.png) | {WORDS.get(name) or figure_words(name)} | {f"[{Path(page).name}]({page})" if page else ""} |'
    write_atomic(FIGURES/'README.md', '\n'.join(['# Figures', '', '`make figures` draws them from data/results/ and writes this list.', '', '| figure | what it shows | read in |', '|---|---|---|', *map(row, sorted(names)), '']))


def main():
    folders = sorted(p for p in RESULTS.iterdir() if p.is_dir())
    drawn = [save('overview', plot_overview().figure)] + [save(*figure) for folder in folders for figure in draw_folder(folder, about(folder))]
    if (table := RESULTS/'engines.csv').exists():
        drawn.append(save('engines', plot_engines(read_results(table, ('machine', 'engine'), ('prompts', 'tokens_a_second', 'start_seconds')))))
    photographs = [name for name in ('report', 'trace') if (FIGURES/f'{name}.png').exists()]
    write_list([*drawn, *photographs])
    print(f'{len(drawn)} figures in {FIGURES}/')
    if absent := [file for file in DRAWINGS if not any((folder/file).exists() for folder in folders)]: print(f'not drawn, no such table in {RESULTS}/*/: {", ".join(absent)}')
    if stale := [f.name for f in sorted(FIGURES.glob('*.png')) if f.stem not in [*drawn, 'report', 'trace']]: print(f'stale, no table draws them: {", ".join(stale)}')


if __name__ == '__main__':
    try: main()
    except CgdError as e: sys.exit(str(e))
