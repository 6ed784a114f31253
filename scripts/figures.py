"Redraw every file in figures/ from the CSVs in data/results/: same input, same bytes."
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import pandas as pd
from cgd.figures import plot_differences, plot_overview, plot_run
from cgd.pipeline import RunConfig, caption

RESULTS, FIGURES = Path('data/results'), Path('figures')


def save(figure, name: str): figure.savefig(FIGURES/f'{name}.png', dpi=150, metadata={'Software': None})


save(plot_overview().figure, 'overview')
for run in sorted(p for p in RESULTS.iterdir() if (p/'results.csv').exists()):
    save(plot_run(pd.read_csv(run/'results.csv').to_dict('records'), caption(RunConfig.load(run/'config.yaml'))), run.name)
    gaps = pd.read_csv(run/'differences.csv').query('grader == "boxed"')
    for benchmark, rows in gaps.groupby('benchmark', sort=False):
        save(plot_differences(rows.to_dict('records'), f'{benchmark}, boxed answer').figure, f'{run.name}-differences-{benchmark}')
