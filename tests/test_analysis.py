"Analysis and costs: operations against what torch counts, the card as `datasets` reads it, the ledger of a real store, and openings in words that the detector was not written with"
import json
from pathlib import Path

import pytest

from cgd.analysis import (
    changed, confusion, critique_report, dataset_card, drift, imitation, label_answers, loss_spike, named_wrong, opens_like_critique,
    quotes_draft, reasoning, step_overlap)
from cgd.core import CgdError, read_table, write_atomic, write_table
from cgd.costs import (
    _rollout_flops, adapter_weights, attended, forward_flops, ledger, method_costs, oracle_sessions, training_flops, weights_used)
from cgd.data import load_problems
from cgd.store import SampleConfig, Store, sessions
from cgd.engines import open_engine
from cgd.results import read_records
from cgd.rollouts import draft
from cgd.teacher import open_teacher, teach
from cgd.models import SHAPES, model_shape

ROOT = Path(__file__).parent.parent
DRAFTS = ROOT/'nbs'/'recordings'/'drafts.jsonl'


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "Recorded drafts, reviewed by the oracle teacher, and the sessions of the store that they were drafted with"
    with open_engine(f'recorded:{DRAFTS}', live='vllm:smollm2') as student, Store(tmp_path_factory.mktemp('analysis')/'store.sqlite') as store:
        rows = draft(load_problems('train', limit=12).rows, student, store, SampleConfig())
        done = sessions(store)
    with open_teacher('oracle') as teacher: return teach(rows, teacher), done


# ---- operations ---------------------------------------------------------------------------------

def counted(model, tokens, backward=False) -> int:
    "What torch counts for one sequence"
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    ids = torch.arange(tokens)[None] + 10
    with FlopCounterMode(display=False) as counter:
        loss = model(ids, labels=ids).loss
        if backward: loss.backward()
    return counter.get_total_flops()


def tiny(folder):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager')


def test_forward_flops_are_those_that_torch_counts(tiny_model):
    shape, n = model_shape(tiny_model), 50
    model = tiny(tiny_model)
    whole = counted(model, n)
    # torch has no mask: it counts all n*n pairs, and the small product that makes the rotary angles
    rotary = 2*n*shape.head_dim//2
    assert whole - rotary == forward_flops(shape, n, n*n)
    assert attended(1, n) == n*(n + 1)/2
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2)   # tied, so the one matrix of the vocabulary is the head
    assert weights_used(shape) == matrices


@pytest.mark.parametrize('method', ['full', 'lora'])
def test_training_flops_are_those_that_torch_counts(tiny_model, method):
    from peft import LoraConfig, get_peft_model
    shape, n, rank = model_shape(tiny_model), 50, 4
    model = tiny(tiny_model)
    if method == 'lora':
        model = get_peft_model(model, LoraConfig(r=rank, target_modules='all-linear'))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter_weights(shape, rank)
    record = dict(tokens=n, pairs=1, device='cpu', config=dict(tuning=method, epochs=1, lora_r=rank))
    ours = training_flops(record, shape)
    unmasked = 3*(forward_flops(shape, n, n*n) - forward_flops(shape, n, attended(1, n)))
    # the first block's input needs no gradient where the embedding is frozen: q, k, v and their adapters save it
    first = shape.linears()[:3]
    saved = 0 if method == 'full' else 2*n*sum(a*b + rank*a for a, b in first)
    assert counted(model, n, backward=True) - 2*n*shape.head_dim//2 == ours['total'] + unmasked - saved
    assert saved < .1*ours['total']


def test_rollout_flops_are_those_that_torch_counts(tiny_model):
    "A prompt is read and a completion written with a cache"
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    shape, read, written = model_shape(tiny_model), 30, 20
    model, ids = tiny(tiny_model), torch.arange(read)[None] + 10
    with FlopCounterMode(display=False) as counter, torch.no_grad(): out = model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=written, max_new_tokens=written, do_sample=False)
    assert out.shape[1] == read + written
    record = dict(view='sdft', tokens=read + written + 90, teacher_tokens=90, pairs=1, device='cpu', config=dict(tuning='full', lora_r=4, beta=0.))
    parts = _rollout_flops(record, shape)
    fed = read + written - 1                                                    # the last token is written and not read
    pairs = read*read + sum(range(read + 1, fed + 1))                           # torch has no mask for the prompt
    head = 2*shape.vocab*shape.hidden*(read - 1)                                # the prompt's last token alone needs the head
    rotary = 2*fed*shape.head_dim//2
    assert counter.get_total_flops() == forward_flops(shape, fed, pairs) - head + rotary
    assert parts['rollout'] == forward_flops(shape, fed + 1, attended(1, fed + 1)) and parts['teacher'] == forward_flops(shape, 90, attended(1, 90))
    assert training_flops(record, shape)['total'] == 4*parts['rollout'] + parts['teacher']


def test_embedded_student_has_the_weights_it_is_said_to_have():
    import json
    from cgd.models import find_model
    assert model_shape(find_model('smollm2')) == SHAPES['smollm2']
    assert json.loads(Path(find_model('smollm2'), 'config.json').read_text())['tie_word_embeddings'] and weights_used(SHAPES['smollm2']) == 134_479_872


# ---- ledger of a real store ----------------------------------------------------------------------

def test_ledger_of_a_real_store(work):
    traces, done = work
    trained = {f.parent.name: json.loads(f.read_text()) for f in (ROOT/'data'/'results'/'cpu'/'models').glob('*/train.json')}
    rows = ledger(done + oracle_sessions(traces), trained, SHAPES['smollm2'])
    assert set(rows[0]) == set('method stage who requests prompt_tokens completion_tokens flops seconds gpu_hours'.split())
    drafts, critiques, refinements = rows[:3]
    assert (drafts['stage'], drafts['who'], drafts['requests']) == ('draft', 'student', 12)
    assert drafts['completion_tokens'] == sum(t['draft_tokens'] for t in traces) and drafts['flops'] > 2*134e6*drafts['completion_tokens']
    assert [(r['stage'], r['who'], r['requests'], r['flops']) for r in (critiques, refinements)] == [('critique', 'teacher', 12, 0), ('refine', 'teacher', 12, 0)]
    costs = {r['method']: r for r in method_costs(rows)}
    assert costs['cgd']['flops'] > costs['dsft_refined']['flops'] and costs['cgd']['teacher_share'] == 0


# ---- tables have the columns that figures and the pipeline expect ----------------------------------

def test_columns(work):
    traces, _ = work
    answers = label_answers(read_records(ROOT/'data'/'results'/'cpu'))
    estimate = {'n', 'value', 'low', 'high'}
    for rows, own in ((critique_report(traces), {'teacher', 'preset', 'measure'}), (step_overlap(traces), {'model', 'measure'}), (drift(answers), {'method', 'measure'}),
                      (reasoning(answers), {'method', 'benchmark'})):
        assert rows and all(set(r) == own | estimate for r in rows)
        for r in rows:
            if r['n']: assert r['low'] <= r['value'] <= r['high'] and (r['measure'] in ('tokens', 'mean_tokens') if r['value'] > 1 else True)
            else: assert r['value'] is r['low'] is r['high'] is None
    assert (found := confusion(traces)) and all(set(r) == {'teacher', 'preset', 'verdict', 'draft_grade', 'n'} for r in found)
    assert {r['method'] for r in imitation(answers)} == {'dsft_refined', 'cgd'}


def test_missing_columns_are_named(work):
    traces, _ = work
    for column, table in (('critique', critique_report), ('verdict', confusion), ('refinement', step_overlap)):
        with pytest.raises(CgdError, match=f'no {column}; run the stage'): table([{k: v for k, v in traces[0].items() if k != column}])


# ---- the dataset card ------------------------------------------------------------------------------

def test_card_is_what_datasets_and_the_hub_read(work, tmp_path):
    import datasets
    from huggingface_hub import DatasetCard
    from huggingface_hub.repocard import metadata_load
    traces, _ = work
    table = write_table(traces, tmp_path/'set'/'my traces.parquet')
    path = write_atomic(table.with_name('README.md'), dataset_card(traces, 'A set: "of" traces', table.name, 'apache-2.0'))
    head = metadata_load(path)
    assert head['pretty_name'] == 'A set: "of" traces' and head['size_categories'] == ['n<1K'] and head['license'] == 'apache-2.0'
    assert DatasetCard.load(path).data.to_dict() == head                 # as the Hub's client reads it
    loaded = datasets.load_dataset(str(path.parent), split='train', cache_dir=str(tmp_path/'cache'))
    assert loaded.num_rows == 12 and loaded['draft'] == [r['draft'] for r in traces]
    assert '| oracle teacher | withheld | fix_rate |' in path.read_text() and 'sees the gold solution' in path.read_text()


def test_card_refuses_a_name_of_two_lines_and_an_empty_table(work):
    with pytest.raises(CgdError, match='expected one line'): dataset_card(work[0], 'x\nlicense: evil')
    with pytest.raises(CgdError, match='no rows'): dataset_card([], 'x')


# ---- steps named and quoted, in the words of language models ----------------------------------------

PROBLEM = 'Tom has 5 bags of 9 apples and eats 3 of them. How many apples are left?'
DRAFT = 'First, we find how many apples there are: 5 * 9 = 40 apples.\nThen he eats 3 of them, so 40 - 3 = 37 apples remain on the table.\nThe answer is 37.'

@pytest.mark.parametrize('critique, named', [
    ('The first step is wrong: 5 * 9 = 40 does not hold, it should be 45.', {0}),
    ('**Step 1:** "First, we find how many apples there are: 5 * 9 = 40 apples." This is incorrect.', {0}),
    ('The student writes 5 × 9 = 40, which is a mistake. The subtraction 40 - 3 = 37 is carried out correctly.', {0}),
    ('The subtraction 40 − 3 = 37 is right. However, the product is not.', set()),
    ('You start from a false product (5*9=40), so "The answer is 37" cannot be right.', {0, 2}),
    ('Tom has 5 bags of 9 apples, and this was not read well.', set()),
    ('The answer is incomplete.', set()),
    ('The work is sound until "Then he eats 3 of them, so 40 - 3 = 37 apples remain on the table".', set())])
def test_named_wrong(critique, named):
    assert named_wrong(critique, DRAFT, PROBLEM) == named


def test_specificity_is_about_this_draft():
    row = dict(prompt=PROBLEM, draft=DRAFT)
    assert quotes_draft(row | dict(critique='He says that 40 - 3 = 37 apples remain.'))
    assert not quotes_draft(row | dict(critique='Tom has 5 bags of 9 apples and eats 3 of them. The answer is 37, he says.'))
    assert not quotes_draft(row | dict(critique='Look at "8 * 4 = 32". Check each step.'))


@pytest.mark.parametrize('refinement, moved', [
    ('First, we find how many apples there are: 5 * 9 = 45 apples.\nThen he eats 3 of them, so 45 - 3 = 42 apples remain on the table.\nThe answer is \\boxed{42}.', {0, 1, 2}),
    ('1. 5 × 9 = 40.\n2. 40 − 3 = 37.\nThe answer is 37!', set()),
    ('', {0, 1, 2})])
def test_changed(refinement, moved):
    assert changed(DRAFT, refinement) == moved


# ---- openings, by hand -----------------------------------------------------------------------------

def test_openings_in_other_words():
    "fixtures/openings.jsonl: critiques and answers written by hand; those with `rules_know_it` false were written after the rules, and the rules left as they were"
    rows = read_table(ROOT/'tests'/'fixtures'/'openings.jsonl')
    share = {kind: [opens_like_critique(r['text']) for r in rows if (r['critique'], r['rules_know_it']) == kind] for kind in ((True, True), (True, False), (False, True), (False, False))}
    assert {kind: (sum(found), len(found)) for kind, found in share.items()} == {(True, True): (30, 30), (True, False): (15, 20), (False, True): (0, 40), (False, False): (1, 20)}


def test_spike_is_found_in_a_run_that_has_one():
    losses = [dict(method=m, seed=s, step=i, loss=v) for m, first in (('cft', [1.2, 2.0, 1.6]), ('cgd', [1.2, 1.1, 1.0])) for s in (0, 1) for i, v in enumerate(first + [.9 - .001*j for j in range(37)])]
    rise = {(r['method'], r['seed']): r['rise'] for r in loss_spike(losses)}
    assert rise == {('cft', 0): pytest.approx(.8), ('cft', 1): pytest.approx(.8), ('cgd', 0): 0, ('cgd', 1): 0}


def test_a_table_keeps_columns_that_later_rows_bring(tmp_path):
    for kind in ('parquet', 'csv', 'jsonl'): assert 'b' in read_table(write_table([dict(a=1), dict(a=2, b=3)], tmp_path/f't.{kind}'))[1], kind
