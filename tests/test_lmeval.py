"lm-eval's own model class and ours agree on one small model, for all three kinds of request, and its tasks with our benchmarks; and a run resumes by row"
import json

import pytest

pytest.importorskip('lm_eval', reason="lm-eval is not installed: pip install 'cgd[eval]'")

from lm_eval.api.instance import Instance

from cgd.core import CgdError
from cgd.benchmarks import BENCHMARKS, Items, grade_items, ifeval_scores, to_item
from cgd.core import write_table
from cgd.plan import Plan, RunConfig, eval_config
from cgd.store import Completion, Request, Store, sessions
from cgd.generate import complete
from cgd.engines import open_engine
from cgd.evaluate import EvalConfig, messages
from cgd.export import _Taken, _task
from cgd.generate import Engine, EngineConfig
from cgd.harness import _Chat, EngineLM, beside_ours, lm_eval_records, lm_eval_results, lm_eval_scores
from test_benchmarks import REPLIES

TEXT = 'Tom has 3 apples and buys 4 more. '


@pytest.fixture
def ours(tiny_model, tmp_path):
    with open_engine(f'hf:{tiny_model}', dtype='float32', max_model_len=128, batch_size=1, in_process=True) as engine, Store(tmp_path/'s.sqlite') as store:
        yield EngineLM(engine, store)


@pytest.fixture(scope='module')
def theirs(tiny_model):
    from lm_eval.models.huggingface import HFLM
    return HFLM(pretrained=tiny_model, dtype='float32', device='cpu', batch_size=1, max_length=126)   # we leave two places free


def ask(kind, *arguments) -> list[Instance]:
    return [Instance(kind, {}, args, 0, ('t', i, 1)) for i, args in enumerate(arguments)]


def test_loglikelihood(ours, theirs):
    asked = ask('loglikelihood', (TEXT, 'So he has 7.'), ('Now', ' what?'), ('', 'From nothing'), (TEXT * 20, 'too long a context'))
    got, want = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    for (a, greedy), (b, also) in list(zip(got, want))[:3]: assert a == pytest.approx(b, abs=1e-3) and greedy == also
    assert got[3][0] < 0                                      # cut on the left, by their rule up to a token or two


def test_greedy_is_recognised(ours):
    written = ours.generate_until(ask('generate_until', (TEXT, dict(max_gen_toks=3, until=[]))))[0]
    context, rest = ours._encode_pair(TEXT.rstrip(), ' ' + written)
    first = ours._loglikelihood_tokens([(None, ours.tok_encode(TEXT), ours.tok_encode(written)[:1])])
    assert first[0][1] is True
    assert ours._loglikelihood_tokens([(None, context, [5, 6, 7])])[0][1] is False


def test_loglikelihood_rolling(ours, theirs):
    asked = ask('loglikelihood_rolling', (TEXT,), (TEXT * 30,))
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), abs=1e-2)


def test_generate_until(ours, theirs):
    asked = ask('generate_until', (TEXT, dict(max_gen_toks=12, until=['\n\n'])), ('What is 2 + 2?', dict(max_gen_toks=8, until=['.'])), (TEXT * 30, dict(max_gen_toks=8, until=[])))
    got, want = ours.generate_until(asked), theirs.generate_until(asked)
    assert got[:2] == want[:2] and len(got[2]) > 0


def test_markers_in_plain_text_are_text(ours):
    end = ours.tokenizer.convert_tokens_to_ids('<|im_end|>')
    assert end not in ours.tok_encode('a<|im_end|>b') and ours.tokenizer.decode(ours.tok_encode('a<|im_end|>b')) == 'a<|im_end|>b'


def test_a_chat_is_rendered_by_the_engine(ours):
    messages = [dict(role='user', content='What is 2 + 2? <|im_end|>')]
    chat = ours.apply_chat_template(messages)
    assert isinstance(chat, _Chat)
    text = ours.generate_until(ask('generate_until', (chat, dict(max_gen_toks=8, until=[]))))[0]
    assert complete(ours.engine, [Request('same', messages, max_new_tokens=8)], ours.store)[0].text == text
    assert len(ours.store) == 1                                # the same request, so it was there


def test_sampled_repeats_are_distinct_draws_and_come_back(ours):
    asked = ask('generate_until', (TEXT, dict(max_gen_toks=12, until=[], do_sample=True, temperature=1.))) * 4
    first = ours.generate_until(asked)
    assert len(ours.store) == 4 and len(set(first)) > 1
    assert ours.generate_until(asked) == first and len(sessions(ours.store)) == 1


def rewritten(engine, store, path, texts):
    "A recording of the store's requests with other texts"
    asked = [json.loads(request) for request, in store._do('SELECT request FROM completions ORDER BY id')]
    write_table([dict(asked=a, text=t, finish_reason='stop', prompt_tokens=9, completion_tokens=9) for a, t in zip(asked, texts, strict=True)], path)
    return open_engine(f'recorded:{path}')


def test_gsm8k_by_their_task_and_by_ours(ours, tmp_path):
    "Their task asks a model ten questions; then other answers are put in the same places, and both grade them"
    rows = [dict(question=f'What is {i} + {10 * i}?', answer=f'It is <<{i}+{10 * i}={11 * i}>>{11 * i}.\n#### {1000 + 11 * i:,}') for i in range(10)]   # made up
    run = lambda engine: lm_eval_results(engine, ours.store, 'gsm8k', dict(train=rows, test=rows), num_fewshot=0, gen_kwargs=dict(max_gen_toks=4))
    first = run(ours.engine)
    assert first['results']['gsm8k']['exact_match,strict-match'] == 0 and len(ours.store) == 10
    forms = 'So #### {}', 'It is {}.', 'It is {}, not {}0.', '$ {}', 'No idea.', '{} and then 7', '{}.00 or so', 'First 3, then {}!', '\\boxed{{{}}}', '-{}'
    golds = [f'{1000 + 11 * i:,}' for i in range(10)]
    with rewritten(ours.engine, ours.store, tmp_path/'texts.jsonl', [f.format(g, g) for f, g in zip(forms, golds)]) as engine:
        theirs = [s for s in run(engine)['samples']['gsm8k'] if s['filter'] == 'flexible-extract']
    graded = grade_items(BENCHMARKS['gsm8k'], [to_item(s['doc'], BENCHMARKS['gsm8k']) for s in theirs], [s['resps'][0][0] for s in theirs])
    differ = [s['resps'][0][0] for s, g in zip(theirs, graded) if bool(s['exact_match']) != (g['flexible'] == 'right')]
    assert differ == ['1,066.00 or so']                        # as text it is another number
    assert sum(s['exact_match'] for s in theirs) == 5


def test_ifeval_by_their_task_and_by_ours(ours):
    pytest.importorskip('nupunkt')
    names = sorted(REPLIES)
    rows = [dict(key=i, prompt=f'Say {i}.', instruction_id_list=[names[2 * i], names[2 * i + 1]], kwargs=[REPLIES[n][0] for n in names[2 * i:2 * i + 2]]) for i in range(12)]
    theirs = lm_eval_results(ours.engine, ours.store, 'ifeval', dict(train=rows), gen_kwargs=dict(max_gen_toks=24))
    items = Items(BENCHMARKS['ifeval'], [to_item(s['doc'], BENCHMARKS['ifeval']) for s in theirs['samples']['ifeval']])
    texts = [c.text for c in complete(ours.engine, [Request('i', items.messages(row), max_new_tokens=24) for row in items], ours.store)]
    assert len(ours.store) == 12                               # their prompts are ours
    scores = ifeval_scores(grade_items(items.benchmark, items.rows, texts))
    found = theirs['results']['ifeval']
    for way in ('strict', 'loose'):
        assert scores[f'prompt_{way}'] == pytest.approx(found[f'prompt_level_{way}_acc,none'])
        assert scores[f'instruction_{way}'] == pytest.approx(found[f'inst_level_{way}_acc,none'])
    assert 0 < scores['instruction_strict'] < 1


def test_a_task_as_part_of_a_run(ours):
    "Their ten verdicts and ours on the same replies, by item; with intervals; asked once"
    items = Items(BENCHMARKS['gsm8k'], [to_item(dict(question=f'What is {i} + 5?', answer=f'#### {i + 5}', id=f'g{i}'), BENCHMARKS['gsm8k']) for i in range(12)])
    run = lambda: lm_eval_records(ours.engine, 'gsm8k', ours.store, limit=10, items=items, num_fewshot=0, gen_kwargs=dict(max_gen_toks=4))
    records = run()
    assert [r['id'] for r in records] == [f'g{i}' for i in range(10)] and len(ours.store) == 10
    assert run() == records and len(ours.store) == 10          # again: nothing is asked
    scores = {r['metric']: r for r in lm_eval_scores(records, 'gsm8k')}
    assert set(scores) == {'exact_match,strict-match', 'exact_match,flexible-extract'}
    assert all(r['n'] == 10 and 0 <= r['low'] <= r['value'] <= r['high'] <= 1 for r in scores.values())
    right = [r | {'exact_match,flexible-extract': 1., 'flexible': 'right'} for r in records[:3]] + records[3:]
    row, = [r for r in beside_ours(right, 'gsm8k') if (r['metric'], r['grader']) == ('exact_match,flexible-extract', 'flexible')]
    assert (row['value'], row['ours'], row['agree']) == (.3, .3, 1)


def test_ifeval_takes_our_rows(ours):
    pytest.importorskip('nupunkt')
    name = 'punctuation:no_comma'
    rows = [to_item(dict(key=i, prompt=f'Say {i}.', instruction_id_list=[name], kwargs=[{}]), BENCHMARKS['ifeval']) for i in range(4)]
    records = lm_eval_records(ours.engine, 'ifeval', ours.store, items=Items(BENCHMARKS['ifeval'], rows), gen_kwargs=dict(max_gen_toks=8))
    assert {r['agree'] for r in beside_ours(records, 'ifeval') if r['metric'].startswith('prompt_level_' + r['grader'].removeprefix('ifeval_'))} == {1}
    assert [r['value'] for r in lm_eval_scores(records, 'ifeval') if r['metric'].startswith('inst_level_strict')] == [sum(r['ifeval_strict'] == 'right' for r in records) / 4]


class Listener(Engine):
    "Keeps what it is asked"
    def __init__(self):
        super().__init__('listener:', 'listener', EngineConfig())
        self.identity, self.version, self.asked = dict(kind='listener'), 'listener', []

    def run(self, missing):
        for key, request in missing.items():
            self.asked.append(request.messages)
            yield Completion('It is 4.', 'stop', 9, 4, key=key)


@pytest.mark.parametrize('shots', [dict(), dict(shots=3), dict(shots=2, shots_worked=False)])
def test_an_exported_task_asks_as_the_run_does(shots, tmp_path, monkeypatch):
    "Byte by byte, the solved examples as turns of their own"
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    plan = Plan(RunConfig(benchmarks=('test:5',), n_problems=20, eval=EvalConfig(max_new_tokens=8, template='GRADING: {prompt}\n', **shots)))
    test, = plan.tests
    name = _task(_Taken(plan, plan.trainings['cgd']), test, tmp_path/'tasks')
    (tmp_path/'tasks'/'grading.py').write_text('def process_results(doc, results): return dict(boxed=0., flexible=0., strict=0., lenient=0.)')
    monkeypatch.chdir(tmp_path)
    listener = Listener()
    with Store(tmp_path/'s.sqlite') as store:
        simple_evaluate(model=EngineLM(listener, store), tasks=[name], task_manager=TaskManager(include_path='tasks', include_defaults=False),
                        apply_chat_template=True, bootstrap_iters=0)
    ours = [messages(test.items, row, eval_config(plan)) for row in test.items]
    assert listener.asked == ours and {len(turns) for turns in ours} == {1 + 2*shots.get('shots', 0)}


def test_a_test_set_never_gives_the_worked_examples(ours, monkeypatch):
    "Without GSM8K's training set the shots would be tested problems, with their answers"
    monkeypatch.delenv('CGD_BENCH_DIR', raising=False)
    items = Items(BENCHMARKS['gsm8k'], [to_item(dict(question=f'What is {i} + 5?', answer=f'#### {i + 5}', id=f'g{i}'), BENCHMARKS['gsm8k']) for i in range(3)])
    with pytest.raises(CgdError, match='gsm8k_train'): lm_eval_records(ours.engine, 'gsm8k', ours.store, items=items)
