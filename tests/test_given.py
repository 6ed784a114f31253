"Half-finished tables end in the pairs of a whole run; runs grow in their folder, and one begins with what another made"
import csv, io, json, os, shutil, signal, subprocess, sys, time
from collections import Counter
from pathlib import Path

import pytest

from cgd.cli import main
from cgd.data import load_problems
from cgd.core import CgdError, read_table, write_atomic, write_table
from cgd.evaluate import EvalConfig
from cgd.generate import EngineConfig
from cgd.given import read_given
from cgd.pipeline import run
from cgd.plan import RunConfig, plan
from cgd.recipe import TrainConfig
from cgd.results import run_ledger
from cgd.store import SampleConfig, Store, sessions
from cgd.teacher import TeacherConfig

BENCH = Path(os.environ.get('CGD_BENCH_DIR', ''))
METHODS = 'cgd', 'dsft_refined', 'cft', 'no_critique', 'dsft', 'cgd_shuffled'


@pytest.fixture(scope='module')
def small(tiny_student, tmp_path_factory) -> RunConfig:
    "A run with its report: two drafts a problem, and a validation set"
    cfg = RunConfig(name='small', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', n_problems=6, validation='val:2', methods=('cgd',), benchmarks=('test:2',),
                    adapters='merge', engine=EngineConfig(batch_size=1), draft=SampleConfig(n=2, temperature=1., max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), views=dict(keep_truncated=True),
                    train=TrainConfig(backend='trl', epochs=1, batch_size=16, device_batch_size=16))
    run(cfg)
    return cfg


@pytest.fixture(scope='module')
def cfg(small) -> RunConfig:
    "A whole run up to its pairs, of many methods and of the same drafts"
    cfg = small.model_copy(update=dict(name='whole', methods=METHODS, store=str(small.path('store.sqlite'))))
    run(cfg, 'pairs')
    return cfg


def pairs(cfg) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(cfg.path('pairs').glob('*.jsonl'))}


def asked(cfg) -> Counter:
    "Requests by stage, of all sessions"
    total = Counter()
    if not cfg.path('store.sqlite').exists(): return total
    with Store(cfg.path('store.sqlite')) as store:
        for s in sessions(store): total[s['stage']] += s['requests']
    return total


def write(rows, path):
    if path.suffix == '.json': return write_atomic(path, json.dumps(rows, indent=2))
    if path.suffix != '.csv': return write_table(rows, path)
    out = csv.DictWriter(text := io.StringIO(), rows[0]); out.writeheader(); out.writerows(rows)
    return write_atomic(path, text.getvalue())


def without(cfg, *texts) -> list[dict]:
    "The run's traces, without some of their texts and what is known of them"
    return [{k: v for k, v in r.items() if k.partition('_')[0] not in texts} for r in read_table(cfg.path('traces.parquet'))]


def goes_on(cfg, rows, kind, **more) -> RunConfig:
    name = f'from-{len(list(Path(cfg.folder).iterdir()))}'
    half = cfg.model_copy(update=dict(name=name, store=None, traces=str(write(rows, Path(cfg.folder)/f'{name}{kind}'))) | more)
    run(half, 'pairs')
    return half


@pytest.mark.parametrize('gone, kind', [((), '.parquet'), (('direct',), '.json'), (('refinement',), '.jsonl'), (('critique', 'refinement'), '.csv'),
                                        (('critique', 'refinement', 'direct'), '.parquet'), (('refinement', 'direct'), '.csv')], ids=str)
def test_a_half_finished_table_ends_in_the_pairs_of_a_whole_run(cfg, gone, kind):
    half = goes_on(cfg, without(cfg, *gone), kind)
    assert pairs(half) == pairs(cfg) and len(pairs(cfg)) == len(METHODS) - 1   # random drafts: the oracle's refinements are its direct answers
    assert not asked(half)   # the oracle teacher is no model, and every draft was given


def test_rows_that_lack_a_draft_are_drafted_the_others_are_kept(cfg):
    rows = without(cfg, 'critique', 'refinement', 'direct')
    of = lambda r: r['problem_id'] in ('train-0', rows[0]['problem_id'])
    some = [r | dict(draft=None, draft_finish=None) if of(r) else r for r in rows]
    half = goes_on(cfg, [r for i, r in enumerate(some) if not (of(r) and r['sample'])], '.jsonl', store=cfg.store)   # its student is not asked again
    assert pairs(half) == pairs(cfg)
    drafts = read_table(half.path('drafts.parquet'))
    assert [d['draft_key'] == 'given' for d in drafts] == [not of(d) for d in drafts] and len(drafts) == 16


def test_strangers_texts_are_kept_to_the_byte_and_said_to_be_given(cfg, capsys):
    "Nobody's names, odd spaces, several teachers at once; the ledger has what was given, at a price that is not known"
    rows = [dict(prompt=r['prompt'], reference=r['reference'], solution=r['solution'], draft=f' {r["draft"]}\r\n', critique=f'Odd \u2028 but mine.\n\nConclusion: wrong [END]\n',
                 level=5) for r in without(cfg)[:8:2]]
    half = goes_on(cfg, rows, '.jsonl', validation=None, teacher=('oracle', f'hf:{cfg.student}'), teach=TeacherConfig(detail='exact', max_new_tokens=8), methods=('cft', 'cgd'))
    traces = read_table(half.path('traces.parquet'))
    assert {(t['draft'], t['critique']) for t in traces} == {(r['draft'], r['critique']) for r in rows}
    assert {t['verdict'] for t in traces} == {'wrong'} and {t['student'] for t in traces} == {'given'} and all(t['teacher'].startswith('given+') for t in traces)
    said = capsys.readouterr().err
    assert '4 rows, given: 4 drafts, 4 critiques' in said and 'not used: level' in said
    ledger = run_ledger(plan(half), traces)
    assert {(r['stage'], r['requests'], r['flops']) for r in ledger if r['who'] == 'given'} == {('draft', 4, None), ('critique', 4, None)}
    assert sum(r['requests'] for r in ledger if r['stage'] == 'refine') == 4


def test_the_authors_files(tmp_path):
    "Their three steps, as `json.dump(results, f, ensure_ascii=False, indent=2)` writes them"
    probed = [dict(id=i, prompt=f'What is 2 + {i}?', baseline_answer=f'It is {2 + i}. #### {2 + i}', probe_model='/models/student', student_response=f'It is {i}.') for i in range(3)]
    reviewed = [r | dict(critique_model='/models/teacher', critique='Add 2.\nConclusion: wrong') for r in probed]
    refined = [dict(instruction='You are an expert.', output='Better.', input=f"Question: {r['prompt']}\n\nStudent's Initial Answer: {r['student_response']}\n\nCritique: {r['critique']}") for r in reviewed]
    one, two, three = (read_given(str(write(rows, tmp_path/f'0{i}.json'))).rows for i, rows in enumerate((probed, reviewed, refined)))
    assert [(r['draft'], r['critique'], r['reference'], r['student']) for r in one] == [(f'It is {i}.', None, str(2 + i), '/models/student') for i in range(3)]
    assert [(r['critique'], r['teacher'], r['refinement']) for r in two] == [('Add 2.\nConclusion: wrong', '/models/teacher', None)] * 3
    assert [(r['prompt'], r['draft'], r['critique'], r['refinement']) for r in three] == [(r['prompt'], r['student_response'], r['critique'], 'Better.') for r in reviewed]


@pytest.mark.skipif(not (BENCH/'one_shot_cft_sample.jsonl.gz').is_file(), reason='CGD_BENCH_DIR has no such file')
def test_critique_fine_tunings_data(cfg, tmp_path, capsys):
    "Real rows, as columns and as the chats that they were: the same texts, no gold out of a critique, verdicts where one is stated"
    given = read_given(str(BENCH/'one_shot_cft_sample.jsonl.gz'))
    assert len(given) == 180 and not given.skipped and all(r['draft'] and r['critique'] and r['reference'] is None and r['solution'] is None for r in given)
    import gzip
    raw = [json.loads(line) for line in gzip.open(BENCH/'one_shot_cft_sample.jsonl.gz')]
    assert [(r['prompt'], r['draft'], r['critique']) for r in given] == [(r['problem'].strip(), r['noisy_answer'], r['critique']) for r in raw]
    chats = read_given(str(write_table([dict(id=r['id'], messages=r['messages']) for r in raw], tmp_path/'chats.jsonl')))
    assert [r['critique'] for r in chats] == [r['critique'] for r in given]
    assert [r['draft'].strip() for r in chats] == [r['draft'].strip() for r in given] and [r['prompt'] for r in chats] == [r['prompt'] for r in given]
    cft = cfg.model_copy(update=dict(name='cft', methods=('cft',), traces=str(BENCH/'one_shot_cft_sample.jsonl.gz'), n_problems=20, validation=None, store=None))
    pairs = run(cft, 'pairs')['cft']
    assert len(pairs) == 20 and [r['completion'][0]['content'] for r in pairs.rows] == [r['critique'].strip() for r in raw[:20]]   # no teacher, no gold, no refinement is needed
    assert 'the first 20 of 180 problems' in capsys.readouterr().err and not asked(cft)


def test_tables_that_cannot_serve_are_refused_in_one_line(cfg, tmp_path):
    bad = lambda rows, **more: plan(cfg.model_copy(update=dict(validation=None, traces=str(write_table(rows, tmp_path/'bad.jsonl'))) | more))
    row = dict(prompt='What is 2 + 3?', draft='6')
    with pytest.raises(CgdError, match='traces: .* has no reference, which the oracle teacher needs'): bad([row], methods=('cgd',))
    with pytest.raises(CgdError, match='refinements without critiques, and cgd learns from both; take methods without critique'): bad([row | dict(refinement='5')], methods=('cgd',))
    for more, method in (dict(refinement='5'), 'dsft_refined'), (dict(critique='c'), 'cft'):   # nothing lacks, so no teacher is asked, and no gold needed
        assert bad([row | more], methods=(method,)).problems[0]['prompt'] == row['prompt']
    with pytest.raises(CgdError, match='learns from no table'): bad([row], methods=())
    with pytest.raises(CgdError, match='no such file'): plan(cfg.model_copy(update=dict(traces=str(tmp_path/'none.jsonl'))))


def test_a_run_grows_by_what_only_adds(small, capsys):
    trained, before = small.path('models', 'cgd', 'train.json'), asked(small)
    made, kept = trained.stat().st_mtime, dict(Store(small.path('store.sqlite')).db.execute('SELECT key, text FROM completions'))
    more = small.model_copy(update=dict(methods=('cgd', 'dsft_refined'), benchmarks=('test:3', 'shifted:2')))
    said = run(more)
    assert 'small grows: methods + dsft_refined; benchmarks + test:3, shifted:2' in capsys.readouterr().out
    assert 'dsft_refined' in said and 'shifted' in said and trained.stat().st_mtime == made   # its pairs are the same
    with Store(small.path('store.sqlite')) as store:
        assert kept.items() <= dict(store.db.execute('SELECT key, text FROM completions')).items()
        assert asked(small).total() > before.total() and asked(small)['evaluate'] == 3 * 5 and asked(small)['draft'] == 16
    grown = more.model_copy(update=dict(n_problems=9))
    assert len(run(grown, 'pairs').keys()) == 2 and not small.path('results.csv').exists()   # on the way, and said so
    with Store(small.path('store.sqlite')) as store: assert [s['requests'] for s in sessions(store) if s['stage'] == 'draft'] == [16, 6]
    with pytest.raises(CgdError, match=r'n_problems: 9 there, 6 now.*--fork'): run(small)


def test_a_fork_begins_with_what_another_run_made(small, capsys):
    "What is the same is not made again; settings are that run's, and flags change them"
    words = ['pairs', '--fork', str(small.path()), '--name', 'fork', '--n-problems', '4', '--methods', 'cgd']
    assert main(words) == 0
    said = capsys.readouterr().out
    fork = RunConfig.load(Path(small.folder, 'fork', 'config.yaml'))
    assert 'fork begins with' in said and (fork.n_problems, fork.benchmarks, fork.student) == (4, ('test:3', 'shifted:2'), small.student)
    with Store(fork.path('store.sqlite')) as ours, Store(small.path('store.sqlite')) as theirs: assert sessions(ours) == sessions(theirs) and len(ours) == len(theirs)
    assert fork.path('models', 'cgd', 'train.json').exists() and not list(fork.path('models').glob('*-merged'))
    assert main(words) == 0 and 'begins with' not in capsys.readouterr().out   # repeated, it goes on
    assert main(['run', '--fork', str(small.path())]) == 1 and 'give it another --name' in capsys.readouterr().err
    assert main(['run', '--fork', str(Path(small.folder, 'none')), '--name', 'x']) == 1 and 'none' in capsys.readouterr().err


def test_a_training_with_the_same_pairs_is_not_made_again_in_a_fork(small):
    grown = RunConfig.load(small.path('config.yaml'))
    same = grown.model_copy(update=dict(name='same', n_problems=6, benchmarks=('test:2',)))
    run(same, 'train', fork=small.path())
    assert same.path('models', 'cgd', 'train.json').read_bytes() == small.path('models', 'cgd', 'train.json').read_bytes()
    assert asked(same) == asked(small)   # nothing was asked


def test_growing_goes_on_after_a_kill(small, long):
    "Killed while it drafts what is new: all that was there stays, and the same command ends as a run made at once"
    if not long: pytest.skip('a minute: make test-all')
    grows = RunConfig.load(small.path('config.yaml')).model_copy(update=dict(n_problems=24))
    once = grows.model_copy(update=dict(name='once'))
    run(once, 'pairs')
    grows.save(file := Path(small.folder)/'grows.yaml')
    def count():
        with Store(small.path('store.sqlite')) as store: return sum(s['requests'] for s in sessions(store) if s['stage'] == 'draft')
    before, command = count(), [sys.executable, '-c', 'import sys; from cgd.cli import main; sys.exit(main())', 'pairs', str(file)]
    process, end = subprocess.Popen(command, start_new_session=True), time.time() + 240
    while count() < before + 3 and process.poll() is None and time.time() < end: time.sleep(.02)
    os.killpg(process.pid, signal.SIGKILL); process.wait()
    assert process.returncode == -signal.SIGKILL and before + 3 <= count() < 2 * (24 + 2)
    assert main(command[3:]) == 0
    assert pairs(grows) == pairs(once) and count() == 2 * (24 + 2)


def test_backslashes_are_mended_as_in_problems(tmp_path):
    "A file of problems and a half-finished table read the same line alike, and say so"
    (tmp_path/'t.jsonl').write_text('{"prompt": "What is $\\frac{1}{2}$ and a half?", "reference": "\\frac{3}{4}", "draft": "$\\frac{2}{6}$"}\n{"prompt": "$\\sqrt{4}$?", "reference": "2"}\n')
    found, problems = read_given(str(tmp_path/'t.jsonl')), load_problems(str(tmp_path/'t.jsonl'))
    assert [(r['prompt'], r['reference']) for r in found.rows] == [(r['prompt'], r['reference']) for r in problems.rows] and len(found.rows) == 2
    assert found.rows[0]['draft'] == r'$\frac{2}{6}$' and any('were mended in 2 of 2 rows' in note for note in found.notes)


@pytest.mark.parametrize('more,error', [(dict(draft='x', sample=1.7), '`sample` is 1.7, expected a whole number'), (dict(draft='x', draft_tokens='1e999'), 'expected a whole number'),
    (dict(prompt=None, instruction='Please critique whether the solution is right.', input='Question:\nWhat is 1 + 1?\n\nSolution:\na\nSolution:\nb', output='Conclusion: wrong'), 'where its question ends')])
def test_what_cannot_be_read_one_way_is_left_out(tmp_path, more, error):
    lines = [dict(prompt='What is 2 + 2?', reference='4', draft='4'), {k: v for k, v in (dict(prompt='What is 1 + 1?', reference='2') | more).items() if v is not None}]
    (tmp_path/'t.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in lines))
    found = read_given(str(tmp_path/'t.jsonl'))
    assert [r['reference'] for r in found.rows] == ['4'] and error in found.skipped[0]   # a draft that is the gold does not take it away


def test_a_run_that_was_moved_goes_on_where_it_is(small, tmp_path):
    "By its folder, or by the config in it, and not where it was made"
    from cgd.cli import read_settings
    moved = tmp_path/'elsewhere'/'small'
    shutil.copytree(small.path(), moved)
    for place in (moved, moved/'config.yaml'): assert read_settings('run', [str(place)]).path() == moved
