"A teacher that detects first: what it does not flag stays and costs nothing, what it flags is criticised sentence by sentence and edited"
import re
from pathlib import Path

import pytest

from cgd.core import CgdError
from cgd.data import load_problems
from cgd.engines import open_engine
from cgd.generate import Engine
from cgd.oracle import count_edits
from cgd.plan import RunConfig, plan
from cgd.rollouts import draft
from cgd.store import Completion, SampleConfig, Store, sessions
from cgd.teacher import DetectingTeacher, TeacherConfig, open_teacher, teach
from cgd.views import build

DRAFTS = Path(__file__).parent.parent/'nbs'/'recordings'/'drafts.jsonl'


@pytest.fixture(scope='module')
def drafts(tmp_path_factory):
    with open_engine(f'recorded:{DRAFTS}') as student, Store(tmp_path_factory.mktemp('drafts')/'s.sqlite') as store:
        return draft(load_problems('train', limit=24).rows, student, store, SampleConfig())


class Detector(Engine):
    "Flags every sentence with a 7 in it; notes what it is asked"
    version, identity, spec = 'detector 1', dict(kind='detector', version=1), 'detector:test'

    def __init__(self): super().__init__('detector:test', 'detector', None); self.asked = []

    def run(self, missing):
        for key, request in missing.items():
            text = request.messages[-1]['content']
            self.asked.append(text)
            yield Completion(self.answer(text), 'stop', 10, 5, key=key)

    def answer(self, text):
        if 'Which of these' not in text: return '4 + 4 is 8.\nSo 8.' if 'fewest changes' in text else 'It is not 7.'
        if 'unread' in text: return 'I cannot tell.'
        numbered = re.findall(r'(?m)^(\d+)\. (.*)$', text)
        return f'Flagged: {", ".join(n for n, s in numbered if "7" in s) or "none"}'


def rows_of(*texts) -> list[dict]:
    common = dict(prompt='What is 4 + 4?', reference='8', solution='4 + 4 = 8', student='s', sample=0, draft_finish='stop', draft_tokens=9, draft_grade='wrong')
    return [common | dict(problem_id=f'p{i}', draft=t, draft_key=f'k{i}') for i, t in enumerate(texts)]


def taught(engine, rows, tmp_path, **settings):
    with Store(tmp_path/'s.sqlite') as store:
        done = teach(rows, DetectingTeacher(engine, TeacherConfig(detect=True, **settings)), store)
        return done, {s['stage']: s['requests'] for s in sessions(store)}


CLEAN, FLAGGED = ' 4 + 4 is 8. \n\nSo 8.\n', '4 + 4 is 7. So 7.'


def test_what_is_not_flagged_stays_to_the_byte_and_nothing_more_is_asked(tmp_path):
    engine = Detector()
    (row,), _ = taught(engine, rows_of(CLEAN), tmp_path)
    assert row['refinement'] == CLEAN and (row['critique'], row['flagged'], row['verdict']) == ('', '', 'right')
    assert len(engine.asked) == 1 and (row['critique_tokens'], row['refinement_tokens']) == (0, 0) and row['refinement_finish'] == 'stop'


def test_a_draft_cut_off_is_no_target_though_nothing_is_flagged(tmp_path):
    done, _ = taught(Detector(), [r | dict(draft_finish='length', flagged_by='x') for r in rows_of(CLEAN)], tmp_path)
    assert build(done, 'dsft_refined').dropped == {'refinement cut off': 1}


def test_one_question_a_flagged_sentence_and_one_refinement_with_all_that_was_said(tmp_path):
    engine = Detector()
    (row,), _ = taught(engine, rows_of(FLAGGED), tmp_path)
    assert row['flagged'] == '4 + 4 is 7.\nSo 7.' and row['verdict'] == 'wrong'
    assert row['critique'] == '1. "4 + 4 is 7.": It is not 7.\n2. "So 7.": It is not 7.' and row['critique_tokens'] == 10
    of = lambda words: [t for t in engine.asked if words in t]
    assert [len(of(w)) for w in ('Which of these', 'This sentence of the answer is wrong', 'fewest changes')] == [1, 2, 1]
    assert row['critique'] in of('fewest changes')[0] and row['refinement'] == '4 + 4 is 8.\nSo 8.'


def test_a_detection_that_cannot_be_read_is_no_draft_without_faults(tmp_path, capsys):
    (row, *_), _ = taught(Detector(), rows_of('unread 8', FLAGGED, CLEAN, ''), tmp_path)
    assert row['flagged'] is None and row['verdict'] == 'unparsed' and row['refinement'] == '' and row['critique'] == ''
    assert '3 of 4 rows without a flagged sentence' in capsys.readouterr().err


def test_only_flagged_drafts_are_pairs_of_dcr(tmp_path):
    done, _ = taught(Detector(), rows_of(CLEAN, FLAGGED, 'unread 8'), tmp_path)
    pairs = build(done, 'dcr')
    assert len(pairs) == 1 and sum(pairs.dropped.values()) == 2 and done[1]['critique'] in pairs.rows[0]['prompt'][0]['content']
    assert len(build([r for r in done if r['flagged'] is not None], 'dsft_refined')) == 2
    with pytest.raises(CgdError, match='no column `flagged`'): build([{k: v for k, v in done[0].items() if k != 'flagged'}], 'dcr')


def test_the_oracle_edits_less_than_it_refines_and_is_right_as_often(drafts):
    with open_teacher('oracle') as plain, open_teacher('oracle', TeacherConfig(detect=True)) as first: rows, edited = teach(drafts, plain), teach(drafts, first)
    assert {r['refinement_grade'] for r in rows} == {r['refinement_grade'] for r in edited} == {'right'}
    changed = [[count_edits(r['draft'], r['refinement']) for r in some] for some in (rows, edited)]
    assert all(e <= p for p, e in zip(*changed)) and sum(changed[1]) < sum(changed[0])
    for r in edited:
        assert (r['flagged'] == '') == (r['verdict'] == 'right') == (r['critique'] == '')
        if not r['flagged']: assert r['refinement'] == r['draft'] and r['draft_grade'] == 'right'
        else: assert all(sentence in r['draft'] for sentence in r['flagged'].split('\n'))
    assert {r['row_id'] for r in rows}.isdisjoint(r['row_id'] for r in edited)   # another preset: the two can stand in one table


def test_a_false_oracle_leaves_faults_and_flags_what_is_right(drafts):
    with open_teacher('oracle', TeacherConfig(detect=True, wrong_rate=1.)) as teacher: done = teach(drafts, teacher)
    assert all(r['refinement'] == r['draft'] and r['verdict'] == 'right' for r in done if r['draft_grade'] == 'wrong')
    assert all(r['flagged'] and r['critique'] for r in done if r['draft_grade'] == 'right')


def test_a_run_of_dcr_wants_teachers_that_detect():
    plan(RunConfig(methods=('dcr',), teach=dict(detect=True)))
    with pytest.raises(CgdError, match='set teach.detect'): plan(RunConfig(methods=('dcr',)))
    with pytest.raises(CgdError, match='expert cannot'): plan(RunConfig(methods=('cgd',), teacher=('oracle', 'expert'), teach=dict(detect=True)))
    with pytest.raises(CgdError, match='chained has no use for teach.detect'): DetectingTeacher(Detector(), TeacherConfig(detect=True, preset='chained'))
