"""`make figures`: every table is drawn, twice alike whatever the machine's settings; what a table lacks is named; colours tell methods apart, for colour-blind eyes too.
All numbers here are made up."""
import csv
import os
import runpy
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.text import Text

from cgd.core import CgdError
from cgd.figures import DRAWINGS, draw_folder, method_color, method_label, method_mark
from cgd.methods import METHODS

NAMES = ['base', *METHODS, 'cgd+dsft_refined', 'cgd-to-dsft_refined', 'cgd-then-grpo']   # and what is joined

REPO = Path(__file__).parent.parent
BENCHMARKS, GRADERS = (('test', 300), ('shifted', 200)), ('boxed', 'flexible')
TRAINED = ['dsft_refined', 'cgd', 'sft', 'cft', 'no_critique', 'cgd_shuffled', 'cgd_generic', 'cgd+dsft_refined', 'cgd-to-dsft_refined']
ARMS = {'': ['base'], 'withheld': TRAINED[:2], 'exact': ['cgd'], 'others': TRAINED[2:]}
MODELS = [(arm, method) for arm, methods in ARMS.items() for method in methods]

def level(*key) -> float: return .1 + .5 * (sum(map(ord, ''.join(map(str, key)))) % 97) / 97   # any share, always the same
def ends(value, half=.05, name=''): return {f'{name}low': round(value - half, 4), f'{name}high': round(value + half, 4)}

def tables() -> dict[str, list[dict]]:
    "Every table that `DRAWINGS` knows, as large as a study's"
    models, grades = ['base', 'dsft_refined', 'cgd'], [(b, n, g) for (b, n), g in product(BENCHMARKS, GRADERS)]
    pairs = [('primary', 'withheld/cgd', 'withheld/dsft_refined'), ('primary', 'withheld/cgd', 'exact/cgd')] + [
        ('exploratory', f'{arm}/{m}', b) for b in ('withheld/dsft_refined', 'base') for arm, m in MODELS[1:] if f'{arm}/{m}' != b and (arm, m, b) != ('withheld', 'cgd', 'withheld/dsft_refined')]
    def measured(measures, **where): return [where | dict(measure=m, n=200, value=v, **ends(v)) for m in measures for v in [level(m, *where.values())]]
    share = lambda *key: (lambda v: {'': v} | ends(v))(level(*key))
    scored = lambda *key: {f'{g}{end and "_" + end}': v for g in GRADERS for end, v in share(g, *key).items()}
    teachers = [('oracle teacher', 'withheld'), ('oracle teacher', 'exact'), ('some/teacher-70B', 'paper')]
    return {
        'results.csv': [dict(benchmark=b, method=m, n=n) | scored(b, m) | dict(mean_tokens=90) for b, n in BENCHMARKS for m in models],
        'differences.csv': [dict(benchmark=b, grader=g, a=x, b=y, n=n, difference=d, **ends(d), p=.01, p_holm=.03) for b, n, g in grades for y, x in combinations(models, 2) for d in [level(b, g, x, y) - .3]],
        'methods.csv': [dict(arm=arm, method=m, benchmark=b, grader=g, seeds=2 if arm == 'others' else 5, n=n, accuracy=a, **ends(a)) for arm, m in MODELS for b, n, g in grades for a in [level(arm, m, b, g)]],
        'contrasts.csv': [dict(kind=kind, a=x, b=y, benchmark=b, grader=g, seeds=2, n=n, difference=d, **ends(d), p=.00001, p_holm='' if kind == 'primary' else .0002)
                          for kind, x, y in pairs for b, n, g in grades for d in [level(x, y, b, g) - .3]],
        'scores.csv': [dict(arm=arm, method=m, seed=s, benchmark=b, n=n) | scored(b, arm, m, s) | dict(mean_tokens=40 + 150 * level(arm, m) + s, pairs=128, target_tokens=9000)
                       for arm, m in MODELS for s in ([-1] if m == 'base' else range(3)) for b, n in BENCHMARKS],
        'curves.csv': [dict(x=x, value=v, arm='', method=m, seed=s, benchmark=b, grader=g, n=n, target_tokens=i * 5000 + 900 * s + 5000, accuracy=a, **ends(a))
                       for x, values in (('n_problems', (16, 64, 256)), ('train.lr', (1e-5, 1e-4, 5e-4)), ('train.epochs', (1, 2, 4)), ('teach.wrong_rate', (0, .5, 1)), ('views.right_share', (0., .5, 1.)))
                       for i, v in enumerate(values) for m in models[1:] for s in range(2) for b, n, g in grades for a in [level(x, v, m, s, b, g)]],
        'uncertainty.csv': [dict(model=m, context=c, n=200, nll=v, **ends(v, name='nll_'), entropy=e, **ends(e, name='entropy_'))
                            for m in models for c in ('x', "x, y'", "x, y', c", 'x, c shuffled', "x, y', c shuffled") for v, e in [(level(m, c), level(c, m, 1))]],
        'answer_entropy.csv': [dict(model=m, k=8, n=50, entropy=v, **ends(v, name='entropy_')) for m in models for v in [level(m, 'answers')]],
        'imitation.csv': [dict(method=m, benchmark=b, seeds=3, n=n, imitation=v, **ends(v)) for m in models[1:] for b, n in BENCHMARKS for v in [level(m, b, 'form')]],
        'alignment.csv': [r for m in models for r in measured(['information_own', 'information_shuffled', 'information_gap'], model=m)] + measured(['cosine_own', 'cosine_shuffled'], model='base') + measured(['step_overlap', 'named_changed', 'others_changed'], model='oracle teacher (withheld)'),
        'attention.csv': [dict(model=m, layer=layer, part=p, share=v, **ends(v, .02), n=200) for m in models for layer in range(30) for p in ('question', 'draft', 'critique', 'own') for v in [level(m, layer, p)]],
        'critiques.csv': [r for t, p in teachers for r in measured(['verdict_accuracy', 'fix_rate', 'break_rate', 'no_change', 'leakage', 'specificity', 'tokens', 'unparsed'], teacher=t, preset=p)],
        'confusion.csv': [dict(teacher=t, preset=p, verdict=v, draft_grade=g, n=round(100 * level(t, p, v, g))) for t, p in teachers for v in ('right', 'wrong', 'unparsed') for g in ('right', 'wrong', 'no_answer')],
        'drift.csv': [r for _, m in MODELS[:3] + MODELS[4:6] for r in measured(['asked_format', 'mean_tokens', 'first_token_kl', 'critique_like', 'ifeval_strict'], method=m)],
        'reasoning.csv': [dict(method=m, benchmark=b, n=round(n * v), value=v, **ends(v)) for m in models for b, n in BENCHMARKS for v in [level(m, b, 'steps')]],
        'ledger.csv': [dict(method=m, stage=s, who=w, requests=128, prompt_tokens=1, completion_tokens=1, flops=f * 1e15, seconds=60, gpu_hours=0)
                       for m, s, w, f in [('', 'draft', 'student', 1), ('', 'critique', 'teacher', 9), ('', 'refine', 'teacher', 11)] + [(m, s, 'student', 3) for m in models[1:] for s in ('train', 'evaluate')]],
        'time.csv': [dict(stage=s, method=m, kind=k, sittings=1, seconds=200 * level(s, m, k)) for s, m in (('', ''), ('draft', ''), ('refine', ''), ('train', 'cgd'), ('eval', 'base'), ('eval', 'cgd'), ('report', ''))
                     for k in ('rest', 'import', 'load', 'prefill', 'decode', 'train step', 'grade')],
        'losses.csv': [dict(arm=arm, method=m, seed=s, step=i, loss=round(1.2 * .9**i + level(m, arm, s), 4)) for arm, m in MODELS[1:] for s in range(3) for i in range(1, 33)]}

def write(path: Path, rows: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as file:
        table = csv.DictWriter(file, list(rows[0])); table.writeheader(); table.writerows(rows)

@pytest.fixture(scope='module')
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('results')
    for file, rows in tables().items(): write(folder/'study'/file, rows)
    return folder

@pytest.fixture(scope='module')
def figures(results):
    drawn = dict(draw_folder(results/'study', 'made-up numbers'))
    for figure in drawn.values(): figure.canvas.draw()
    yield drawn
    plt.close('all')

def make_figures(results, figures, **env):
    return subprocess.run([sys.executable, REPO/'scripts/figures.py', results, figures], capture_output=True, text=True, env=os.environ | env)

def test_every_table_is_drawn(figures):
    assert set(tables()) == set(DRAWINGS)
    assert {name.split('-')[1] if '-' in name else 'results' for name in figures} == {Path(file).stem for file in DRAWINGS}
    assert {name for name in figures if 'curves' in name} == {f'study-curves-{x}' for x in ('n_problems', 'target_tokens', 'train_lr', 'train_epochs', 'teach_wrong_rate', 'views_right_share')}

def test_same_bytes_whatever_the_machine(results, tmp_path, long):
    "Every other table, among which are all kinds of drawings; with --long all of them"
    files = list(DRAWINGS)[::1 if long else 2]
    for file in files: write(tmp_path/'results/study'/file, tables()[file])
    (tmp_path/'settings').mkdir()
    (tmp_path/'settings/matplotlibrc').write_text('font.family: serif\nsavefig.dpi: 40\naxes.facecolor: red\nlines.linewidth: 5\n')
    (tmp_path/'settings/other').mkdir()
    first = make_figures(tmp_path/'results', tmp_path/'a')
    second = make_figures(tmp_path/'results', tmp_path/'b', MATPLOTLIBRC=str(tmp_path/'settings'), MPLCONFIGDIR=str(tmp_path/'settings/other'), PYTHONHASHSEED='7', LC_ALL='C', TZ='Asia/Tokyo')
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    a, b = ({f.name: f.read_bytes() for f in (tmp_path/name).iterdir()} for name in 'ab')
    assert a == b and len(a) == 2 + len(files) + 5*('curves.csv' in files)   # the list, the overview, one a table, and five more curves

def test_says_what_is_absent_and_what_is_stale(results, tmp_path):
    write(tmp_path/'results/one/losses.csv', tables()['losses.csv'])
    (tmp_path/'figures').mkdir()
    (tmp_path/'figures/one-gone.png').write_bytes(b'')
    made = make_figures(tmp_path/'results', tmp_path/'figures')
    assert made.stdout.splitlines() == [f'2 figures in {tmp_path}/figures/', f'not drawn, no such table in {tmp_path}/results/*/: {", ".join(f for f in DRAWINGS if f != "losses.csv")}',
                                        'stale, no table draws them: one-gone.png'], made.stderr
    assert (tmp_path/'figures/one-gone.png').exists()   # named, not deleted

@pytest.mark.parametrize('file', DRAWINGS)
def test_a_lost_column_is_named(file, tmp_path):
    drawing, rows = DRAWINGS[file], tables()[file]
    for column in (*drawing.text, *drawing.numbers):
        lost = column.split('|')
        write(tmp_path/'study'/file, [{k: v for k, v in r.items() if k not in lost} for r in rows])
        with pytest.raises(CgdError) as error: next(draw_folder(tmp_path/'study'))
        assert str(error.value).startswith(f'{tmp_path/"study"/file}: no column {lost[0]!r}')

def test_a_lost_column_ends_make_figures(tmp_path):
    write(tmp_path/'study/drift.csv', [{k: v for k, v in r.items() if k != 'high'} for r in tables()['drift.csv']])
    made = make_figures(tmp_path, tmp_path/'figures')
    assert made.returncode == 1 and made.stderr.startswith(f"{tmp_path}/study/drift.csv: no column 'high'") and 'Traceback' not in made.stderr

@pytest.mark.parametrize('file', ['results.csv', 'scores.csv'])
def test_no_grader_is_said(file, tmp_path):
    write(tmp_path/'study'/file, [{k: v for k, v in r.items() if not k.startswith(GRADERS)} for r in tables()[file]])
    with pytest.raises(CgdError, match='no grader'): next(draw_folder(tmp_path/'study'))

INTERVALS = {'results': 12, 'differences': 12, 'methods': 44, 'contrasts': 80, 'scores': 4 * (1 + 3 * 10), 'curves-train_lr': 4 * 12, 'uncertainty': 30, 'answer_entropy': 3, 'imitation': 4, 'alignment': 14, 'critiques': 24, 'drift': 25, 'reasoning': 6}

@pytest.mark.parametrize('name', INTERVALS)
def test_intervals_are_drawn(figures, name):
    figure = figures['study' if name == 'results' else f'study-{name}']
    bars = [c for ax in figure.axes for c in ax.containers]
    assert len(bars) == INTERVALS[name]
    for bar in bars:
        ends = bar.lines[2][0].get_segments()[0]
        assert (ends[1] > ends[0]).any()
        if bar.lines[0]: assert (ends[0] < bar.lines[0].get_xydata()[0]).any() and (ends[1] > bar.lines[0].get_xydata()[0]).any()   # of a curve the point is the mean's

def test_bands_and_thin_lines(figures):
    assert [len(ax.collections) for ax in figures['study-attention'].axes] == [4] * 3
    lines = figures['study-losses'].axes[0].lines
    assert len(lines) == (len(MODELS) - 1) * (3 + 1) and sum(line.get_linewidth() < 1 for line in lines) == 3 * (len(MODELS) - 1)

def test_n_is_said(figures):
    for name, figure in figures.items():
        words = [t.get_text() for t in figure.findobj(Text)]
        assert any('n = ' in w for w in words) and 'made-up numbers' in words, name

def test_units_are_said(figures):
    for name, unit in (('methods', '%'), ('contrasts', 'points'), ('uncertainty', 'nats'), ('alignment', 'nats'), ('attention', '%'), ('losses', 'nats'), ('ledger', 'FLOPs'), ('time', 'seconds'), ('reasoning', '%'), ('scores', 'tokens'), ('drift', 'tokens')):
        assert any(unit in text for ax in figures[f'study-{name}'].axes for text in (ax.get_xlabel(), ax.get_ylabel())), name

def rows_by_color(ax):
    "Name of a row -> the colours of the points in it"
    names = [t.get_text() for t in ax.get_yticklabels()]
    found = {}
    for bar in ax.containers: found.setdefault(names[round(bar.lines[0].get_ydata()[0])], set()).add(bar.lines[0].get_color())
    return found

def test_a_method_has_its_colour_everywhere(figures):
    for name in ('study', 'study-methods', 'study-drift', 'study-reasoning'):
        for row, found in rows_by_color(figures[name].axes[0]).items():
            method = max((m for m in NAMES if row.startswith(method_label(m))), key=lambda m: len(method_label(m)))
            assert found == {method_color(method)}, (name, row)
    for row, found in rows_by_color(figures['study-contrasts'].axes[0]).items():
        first = row.partition('\n')[0]
        assert found == {method_color(max((m for m in NAMES if first.startswith(method_label(m))), key=lambda m: len(method_label(m))))}, row
    for name in ('study-scores', 'study-curves-n_problems', 'study-uncertainty'):
        legend = figures[name].legends[0]
        for mark, text in zip(legend.legend_handles, legend.get_texts()):
            method = next(m for m in NAMES if text.get_text().startswith(method_label(m)) and mark.get_color() == method_color(m))
            assert mark.get_marker() == method_mark(method)
    assert {line.get_color() for line in figures['study-losses'].axes[0].lines} == {method_color(m) for m in TRAINED}

def test_primary_above_exploratory_with_p(figures):
    ax = figures['study-contrasts'].axes[0]
    names = ax.get_yticklabels()
    assert [t.get_text() for t in names][:2] == [f'{method_label("withheld/cgd")}\n− {method_label(b)}' for b in ('dsft_refined', 'exact/cgd')] and len(names) == 20
    assert [t.get_fontweight() for t in names] == ['bold'] * 2 + ['normal'] * 18
    assert {t.get_text() for t in ax.texts if t.get_position()[1] < 1.5} == {'p < 0.0001'} and {t.get_text() for t in ax.texts if t.get_position()[1] > 1.5} == {'Holm p 0.0002'}

def test_verdicts_are_counted(figures):
    rows = [r for r in tables()['confusion.csv'] if r['teacher'] != 'oracle teacher']
    ax = figures['study-confusion'].axes[-1]
    assert [int(t.get_text()) for t in ax.texts] == [r['n'] for r in rows] and f'n = {sum(r["n"] for r in rows)}' in ax.get_xlabel()

def test_nothing_is_cut(figures):
    "Every word lies within its figure, and no two names of rows or columns overlap"
    for name, figure in figures.items():
        draw, page = figure.canvas.get_renderer(), figure.bbox.padded(1)
        words = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        drawn = [t for t in words if t.get_window_extent(draw).width > 0]
        ticks = {id(t) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for t in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}
        for t in drawn:
            box = t.get_window_extent(draw)
            if id(t) not in ticks: assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, (name, t.get_text())
        free = [t for t in drawn if id(t) not in ticks]
        for a, b in combinations(free, 2): assert not a.get_window_extent(draw).padded(-1).overlaps(b.get_window_extent(draw).padded(-1)), (name, a.get_text(), b.get_text())
        for ax in figure.axes:
            for axis, lower in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
                shown = [t for t, at in zip(axis.get_ticklabels(), axis.get_ticklocs()) if min(lower) <= at <= max(lower) and t.get_text() and t.get_visible()]
                for a, b in combinations(shown, 2): assert not a.get_window_extent(draw).padded(-.5).overlaps(b.get_window_extent(draw).padded(-.5)), (name, a.get_text(), b.get_text())

# Machado, Oliveira and Fernandes (2009), full deficiency, on linear RGB
DEFICIENT = {'protan': [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
             'deutan': [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]]}
MAIN = ['base', 'sft', 'dsft_refined', 'cft', 'cgd', 'no_critique']

@pytest.mark.parametrize('eyes', ['all', *DEFICIENT])
def test_main_methods_stay_apart(eyes):
    import numpy as np
    def lab(color):
        rgb = np.array(colors.to_rgb(color))
        linear = np.where(rgb <= .04045, rgb / 12.92, ((rgb + .055) / 1.055)**2.4)
        if eyes in DEFICIENT: linear = np.clip(np.array(DEFICIENT[eyes]) @ linear, 0, 1)
        xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]]) @ linear / [.9505, 1, 1.089]
        f = np.where(xyz > .008856, np.cbrt(xyz), 7.787 * xyz + 16/116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    for a, b in combinations(MAIN, 2): assert np.linalg.norm(lab(method_color(a)) - lab(method_color(b))) > 12, (a, b)

def test_marks_tell_all_methods_apart_in_grey(): assert len({method_mark(m) for m in NAMES}) == len(NAMES)

def test_committed_figures_are_those_of_the_tables(tmp_path):
    for name in ('report', 'trace'): (tmp_path/f'{name}.png').write_bytes((REPO/'figures'/f'{name}.png').read_bytes())
    subprocess.run([sys.executable, REPO/'scripts'/'figures.py', REPO/'data'/'results', tmp_path], cwd=REPO, check=True, env=os.environ | dict(PYTHONPATH=str(REPO)))
    drawn, kept = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in (tmp_path, REPO/'figures'))
    assert kept.keys() == drawn.keys(), 'run `make figures` and commit figures/'
    assert not [name for name in drawn if drawn[name] != kept[name]], 'run `make figures` and commit figures/'


def test_a_table_in_which_nothing_could_be_measured_has_no_figure(tmp_path):
    (tmp_path/'alignment.csv').write_text('model,measure,n,value,low,high\nbase,step_overlap,0,,,\n')
    assert not list(draw_folder(tmp_path))

def test_every_committed_figure_is_listed_with_the_page_that_reads_it():
    listed = [line.split(' | ') for line in (REPO/'figures'/'README.md').read_text().splitlines() if line.startswith('| [')]
    assert [line[0].split('](')[1].strip(')') for line in listed] == [f'{name}.png' for name in sorted(f.stem for f in (REPO/'figures').glob('*.png'))]
    for _, words, page in listed: assert words and (REPO/'figures'/page.split('](')[1].partition(')')[0]).exists()

def test_a_long_legend_stands_beside_its_panel_and_marks_at_zero_are_whole(figures):
    figure = figures['study-losses']
    assert figure.legends[0].get_window_extent().x0 >= figure.axes[0].bbox.x1
    for name in ('losses', 'scores'):
        for ax in figures[f'study-{name}'].axes: assert ax.transData.transform((0, 0))[1] - ax.bbox.y0 > 4 * figure.dpi / 72   # half a mark

def test_captions_name_the_student_of_before(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['figures.py'])
    about = runpy.run_path(REPO/'scripts'/'figures.py')['about']
    said = {name: about(REPO/'data'/'results'/name) for name in ('claim', 'cpu', 'cpu_study', 'curves', 'expert', 'rivals')}
    assert [name for name, text in said.items() if 'before its tokenizer was mended' in text] == ['cpu_study', 'curves', 'rivals'] and all(said.values())
