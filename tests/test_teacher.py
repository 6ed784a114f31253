"An LM teacher end to end on a real engine: the student's own model critiques and refines its drafts"
from pathlib import Path

import pytest

from cgd.data import load_problems
from cgd.store import SampleConfig, Store, sessions
from cgd.engines import choose_engine, open_engine
from cgd.rollouts import draft
from cgd.teacher import TeacherConfig, critique, direct, open_teacher, refine

DRAFTS = Path(__file__).parent.parent/'nbs'/'recordings'/'drafts.jsonl'   # by the student, as the notebooks replay them


@pytest.mark.parametrize('preset', ['paper', 'chained'])
def test_student_teaches_itself(preset, tmp_path_factory, capsys):
    store_path = tmp_path_factory.getbasetemp()/'teacher.sqlite'     # shared: chained critiques are asked as paper's are
    cfg = TeacherConfig(preset=preset, max_new_tokens=48)
    with open_engine(f'recorded:{DRAFTS}') as student, Store(tmp_path_factory.getbasetemp()/'drafts.sqlite') as store:
        traces = draft(load_problems('train', limit=4).rows, student, store, SampleConfig())
    with Store(store_path) as store, open_teacher(f'{choose_engine("smollm2")}:smollm2', cfg) as teacher:
        taught = direct(refine(critique(traces, teacher, store), teacher, store), teacher, store)
        kept = len(store)
        again = direct(refine(critique(traces, teacher, store), teacher, store), teacher, store)
        assert len(store) == kept and again == taught                # resumed from the store, nothing asked twice
        stages = {s['stage'] for s in sessions(store)}
    assert {'critique', 'refine', 'direct'} <= stages
    assert [r['problem_id'] for r in taught] == [r['problem_id'] for r in traces] and len({r['row_id'] for r in taught}) == 4
    assert {(r['teacher'], r['preset']) for r in taught} == {('smollm2', preset)}
    for r in taught:
        assert r['critique'].strip() and r['refinement'].strip() and r['direct'].strip()
        assert {r['critique_finish'], r['refinement_finish'], r['direct_finish']} <= {'stop', 'length'} and 0 < r['critique_tokens'] <= 48
        assert r['verdict'] in ('right', 'wrong', 'unparsed') and (r['critique_finish'] == 'stop' or r['verdict'] == 'unparsed')
        assert r['refinement_grade'] in ('right', 'wrong', 'no_answer')
        assert len({r['critique_key'], r['refinement_key'], r['direct_key']}) == 3
