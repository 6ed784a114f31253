"TRICE: weights that leave the mean as it is, a gradient that is fine-tuning's on what is remembered, memory that outlives a kill and forgets nothing right; each trap put in is found"
import json

import numpy as np
import pytest

import cgd.pipeline
import cgd.rivals
import cgd.trice
from cgd.core import CgdError, write_table
from cgd.costs import training_flops
from cgd.masks import encode
from cgd.methods import METHODS
from cgd.models import load_tokenizer, model_shape
from cgd.pipeline import run
from cgd.plan import RunConfig, plan
from cgd.recipe import TrainConfig
from cgd.rivals import RLConfig, _draw, _rival_trainer, check_rival, fit_rival
from cgd.store import SampleConfig
from cgd.train import fit
from cgd.trainer import read_losses
from cgd.trice import gather_drafts, signed_weights
from cgd.views import Pairs, make_pair

CFG = RLConfig(steps=4, prompts=4, n=2, device_batch_size=4, max_new_tokens=24, lr=1e-3, save_steps=2, dtype='float32', grader='flexible', tuning='full')
SAID = r'\boxed{%s}'
PROBLEMS = [dict(problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=str(2*i)) for i in range(1, 5)]
DRAFTED = [p | dict(draft='So it is ' + SAID % p['reference'] + ', as I said.'*(i % 2), draft_finish='stop') for i, p in enumerate(PROBLEMS)]


def asked(problem): return dict(problem=CFG.template.replace('{prompt}', problem['prompt']))   # as a pair has it


@pytest.fixture(autouse=True)
def written_here(monkeypatch):
    "By transformers: a student of two layers has long answered when vLLM has started"
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'it is not asked here')


# a student of six answers

IS_RIGHT = np.array([1, 0, 1, 0, 1, 0], bool)


def toy(better, weights, updates=300_000, problems=4):
    "Bias and variance of the estimated gradient of log p(right), where right answers have `better` more logits"
    rng, held = np.random.default_rng(0), [True]*problems
    p = np.exp(np.linspace(0, 1, 6) + better*IS_RIGHT)
    p /= p.sum()
    posterior = p*IS_RIGHT/p[IS_RIGHT].sum()
    written = np.vstack([rng.choice(6, (1, problems), p=posterior), rng.choice(6, (updates, problems), p=p)])
    last = np.maximum.accumulate(np.where(IS_RIGHT[written], np.arange(updates + 1)[:, None], 0))   # the last right one
    memory, new = np.take_along_axis(written, last, 0)[1:], written[1:]
    cases, case = np.unique(IS_RIGHT[new], axis=0, return_inverse=True)
    w = np.array([weights(c.tolist(), held) for c in cases])[case.ravel()]
    found = np.stack([(w[..., 0]*(memory == k) + w[..., 1]*(new == k)).sum(1) - w.sum((1, 2))*p[k] for k in range(6)], 1)
    return abs(found.mean(0) - (posterior - p)).max(), found.var(0).sum()


def basic(right, held): return signed_weights(right, held, False)


@pytest.mark.parametrize('better, most', [(-.5, 1.05), (1, .9), (3, .25), (8, .01)])
def test_the_mean_is_right_and_scatters_less(better, most):
    (bias, variance), (bias_b, variance_b) = toy(better, signed_weights), toy(better, basic)
    assert max(bias, bias_b) <= .002 and variance < most*variance_b


def test_memory_and_weights_together_give_the_exact_gradient():
    "By the trainer's own memory, which begins with the least likely right answer: each right answer is remembered as often as it is among right ones, and what is learnt on the way is not biased"
    rng, names, updates = np.random.default_rng(0), list('abcd'), 40_000
    p = np.exp(np.linspace(0, 1, 6) + IS_RIGHT)
    p /= p.sum()
    posterior, one = p*IS_RIGHT/p[IS_RIGHT].sum(), np.eye(6)
    memory, seen, learnt = {name: [[0]] for name in names}, np.zeros(6), np.zeros(6)
    for new in rng.choice(6, (updates, 4), p=p):
        right = IS_RIGHT[new].tolist()
        kept, held = cgd.trice._recall(memory, names, [[k] for k in new], right)
        for (k,), n, (w, v) in zip(kept, new, signed_weights(right, held)):
            seen[k] += 1
            learnt += w*(one[k] - p) + v*(one[n] - p)
    assert abs(seen/seen.sum() - posterior).max() < .005 and abs(learnt/updates - (posterior - p)).max() < .005


def own_included(right, held):
    "Trap: beta counts its own example"
    beta = sum(right)/len(right)
    return [((1 - beta)/len(right), 0) if r else (1/len(right), -beta/len(right)) for r in right]


def drawn_by_exponential(right, held):
    "Trap: a part of the terms, drawn by the exponential of their weight; here the mean of such draws"
    w = np.array(signed_weights(right, held))
    chance = np.exp(abs(w)*len(right))
    return np.sign(w)*abs(w).sum()*chance/chance.sum()


@pytest.mark.parametrize('trap', [own_included, drawn_by_exponential])
def test_these_would_be_found(trap):
    assert toy(1, signed_weights)[0] <= .002 < .02 < toy(1, trap)[0]


def test_weights_by_hand():
    "Trap: the wrong answer to a problem that was never solved is unlearnt, too"
    assert signed_weights([True, True, False, False], [True, False, True, False]) == [(1/2/3, 0), (1/2/3, 0), (1/3, -1/3), (0, 0)]
    assert signed_weights([True]*3, [True, False, True]) == [(0, 0)]*3 and signed_weights([False]*3, [False]*3) == [(0, 0)]*3
    assert signed_weights([True], [True]) == signed_weights([False], [True]) == [(1, 0)]   # no others tell what beta is


# the trainer on a tiny model

@pytest.fixture(scope='module')
def making(tiny_student, tmp_path_factory):
    "A trainer of a method, with what it is to write given"
    folder = tmp_path_factory.mktemp('made')

    def make(name='trice', rows=DRAFTED, said=None, **changes):
        method = METHODS[name]
        cfg = CFG.model_copy(update=changes | dict(rewards=method.rewards))
        tokenizer, drawn, _ = _draw(method, gather_drafts(rows, cfg), cfg, tiny_student, 'auto')
        made = _rival_trainer(method, tokenizer, drawn, cfg, tiny_student, folder/'checkpoints', 'x', None, 0)
        made.asked = []
        if said is not None: made.model.generate = saying(made, tokenizer, said)
        return made
    return make


def saying(made, tokenizer, said):
    "Writes for the rows of an update what it is told, with the end of a turn or, after '...', without"
    import torch

    def generate(input_ids, attention_mask, generation_config):
        made.asked += [ids[seen.bool()].tolist() for ids, seen in zip(input_ids, attention_mask)]
        end = [tokenizer.eos_token_id]
        ids = [tokenizer.encode(t.removesuffix('...')) + end*(not t.endswith('...')) for t in said]
        written = torch.nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True, padding_value=generation_config.pad_token_id)
        return torch.cat([input_ids, written], 1)
    return generate


def learns(made):
    "The gradient of one update, before it is clipped and taken"
    import torch
    inputs = [r for r in made.train_dataset.select(range(CFG.prompts)) for _ in range(made.num_generations)]
    made.model.train()
    made.model.zero_grad()
    for _ in range(made.args.gradient_accumulation_steps):
        made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
        made.training_step(made.model, inputs, None)
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def summed_nll(made, texts):
    "The gradient of fine-tuning on these answers to the problems of an update: the sum over tokens, the mean over the answers"
    import torch
    pairs = Pairs('sft', [make_pair('sft', asked(p), t, p['problem_id']) for p, t in texts])
    rows = encode(made.processing_class, pairs).rows
    made.model.zero_grad()
    for r in rows:
        logits = made.model(input_ids=torch.tensor([r['input_ids']])).logits[0, :-1]
        (torch.nn.functional.cross_entropy(logits, torch.tensor(r['labels'][1:]), reduction='sum')/len(rows)).backward()
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def near(a, b): return float((a - b).norm()/b.norm()) < 1e-4


WRONG = ['It is 99.', 'No idea, it may be 77 or so.', 'Hm, 55.', '31.']
ids_of = {r['problem_id']: r for r in DRAFTED}


def in_update(made): return [ids_of[r['problem_id']] for r in made.train_dataset.select(range(CFG.prompts))]


@pytest.mark.parametrize('device', [8, 2])
def test_basic_form_is_fine_tuning_on_what_is_remembered(making, device):
    "Answers of several lengths: a loss that divides by length, leaves out the end token, or shares the batch out otherwise has another gradient"
    made = making('trice_basic', said=WRONG, device_batch_size=device)
    found = learns(made)
    assert near(found, summed_nll(made, [(r, r['draft']) for r in in_update(made)]))
    assert made._metrics['train']['reward'] == [0.]


def test_the_control_variate_takes_off_what_is_new(making):
    "The first new answer is right, the others are not: the gradient put together by hand"
    made = making(said=None)
    rows = in_update(made)
    said = [SAID % rows[0]['reference'], *WRONG[1:]]
    made.model.generate = saying(made, made.processing_class, said)
    found, new = learns(made), [(r, t) for r, t in zip(rows, said)]
    one = lambda pair: summed_nll(made, [pair])
    kept = one(new[0]) + sum(one((r, r['draft'])) for r in rows[1:])
    assert near(found, (kept - sum(one(pair) for pair in new[1:])/3)/4)   # of the first the others tell that beta is 0


def test_all_right_is_exactly_nothing(making):
    made = making(said=None)
    made.model.generate = saying(made, made.processing_class, [SAID % r['reference'] for r in in_update(made)])
    assert learns(made).abs().max() == 0 and made._metrics['train']['idle'] == [1.]


def test_a_problem_that_was_never_solved_teaches_nothing(making):
    "Half of them have no right draft"
    rows = [r if i % 2 else r | dict(draft='It is 1000.') for i, r in enumerate(DRAFTED)]
    made = making('trice', rows, WRONG)
    assert [bool(made.memory[r['problem_id']][0]) for r in rows] == [False, True]*2
    found, held = learns(made), [r for r in in_update(made) if made.memory[r['problem_id']][0]]
    assert near(found, summed_nll(made, [(r, r['draft']) for r in held]))


def test_what_is_cut_off_is_wrong(making):
    "Its end was not written, whatever it says; it stays in the control variate, all of it"
    made = making(said=None)
    rows = in_update(made)
    made.model.generate = saying(made, made.processing_class, [(cut := f'So {SAID % rows[0]["reference"]}, as I have') + '...', *(SAID % r['reference'] for r in rows[1:])])
    before = json.loads(json.dumps(made.memory))
    batch = made._generate_and_score_completions([r for r in made.train_dataset.select(range(4)) for _ in range(2)])
    assert made._metrics['train']['reward'] == [.75] and made.memory[rows[0]['problem_id']] == before[rows[0]['problem_id']]
    assert batch['advantages'].tolist() == pytest.approx([2, -2] + [8/4*(1 - 2/3), 0]*3)
    assert batch['completion_ids'][1][batch['completion_mask'][1].bool()].tolist() == made.processing_class.encode(cut)


def test_new_answers_are_the_students_own_draws(making):
    "To the problem alone, from all tokens, with nothing left out or made dearer"
    made = making(said=WRONG)
    learns(made)
    bare = [encode(made.processing_class, Pairs('sft', [make_pair('sft', asked(r), 'x', 'x')])).rows[0] for r in in_update(made)]
    assert made.asked == [[i for i, label in zip(b['input_ids'], b['labels']) if label == -100] for b in bare]
    how = made.generation_config
    assert (how.do_sample, how.temperature, how.top_p, how.top_k, how.min_p, how.repetition_penalty) == (True, 1., 1., 0, None, 1.)
    assert made.num_iterations == 1 and made.args.steps_per_generation == made.args.gradient_accumulation_steps


@pytest.mark.parametrize('setting', [dict(temperature=.9), dict(top_p=.99), dict(beta=.01), dict(n=3)])
def test_other_settings_are_refused_before_anything_is_loaded(setting):
    with pytest.raises(CgdError, match=next(iter(setting))): check_rival('trice', CFG.model_copy(update=setting), 'smollm2')
    with pytest.raises(CgdError, match=f'rl: {next(iter(setting))}='): plan(RunConfig(methods=('trice',), rl=CFG.model_copy(update=setting).model_dump()))


# whole trainings

@pytest.fixture(scope='module')
def tuned(tiny_student, tmp_path_factory):
    "A student that has learnt to answer 2 or 3, whatever the question"
    pairs = Pairs('sft', [make_pair('sft', asked(p), SAID % n, f'{p["problem_id"]}-{n}') for p in PROBLEMS for n in (2, 3)])
    folder = tmp_path_factory.mktemp('first')/'sft'
    fit(pairs, TrainConfig(backend='trl', tuning='full', lr=2e-3, epochs=30, batch_size=8, device_batch_size=8, dtype='float32', save_steps=1000, schedule='constant'), tiny_student, folder)
    return str(folder)


ASKED = [p | dict(reference='2', draft=d, draft_finish='stop') for p, d in zip(PROBLEMS, [SAID % 2, 'It is 7.', '', SAID % 3])]


@pytest.fixture
def memories(monkeypatch):
    "What is remembered after each update"
    seen, recall = [], cgd.trice._recall

    def look(memory, *more):
        found = recall(memory, *more)
        seen.append(json.loads(json.dumps(memory)))
        return found
    monkeypatch.setattr(cgd.trice, '_recall', look)
    return seen


def test_acceptance_rises_and_memory_forgets_nothing_right(tuned, tmp_path, memories):
    "Half of what it says is right at first; one draft of four is"
    cfg = CFG.model_copy(update=dict(steps=12, n=4, max_new_tokens=8, device_batch_size=16, lr=5e-4, save_steps=100))
    record = fit_rival('trice', ASKED, cfg, tuned, tmp_path/'out')
    accepted, tokenizer = record['rewards'], load_tokenizer(tuned, 'auto')
    assert len(memories) == len(accepted) == cfg.steps   # new answers for every update
    assert sum(accepted[-3:])/3 > sum(accepted[:3])/3 + .15 and [r['reward'] for r in read_losses(tmp_path/'out')] == accepted
    
    for before, after in zip([{k: [[], []] for k in memories[0]}, *memories], memories):
        for name, some in after.items():
            assert all(now or not then for then, now in zip(before[name], some))
            said = [tokenizer.decode(ids, skip_special_tokens=True) for ids in some if ids]
            assert cgd.rivals.pay_right(said, [dict(reference='2')]*len(said), cfg) == [1.]*len(said)
    assert all(memories[-1][p['problem_id']][0] for p in PROBLEMS)


def test_stopped_and_gone_on_from_with_its_memory(tuned, tmp_path, monkeypatch, memories):
    cfg = CFG.model_copy(update=dict(steps=3, save_steps=1, tuning='lora'))
    whole = fit_rival('trice', ASKED, cfg, tuned, tmp_path/'whole')
    kept = memories.copy()

    def stop(self, args, state, control, **kw):
        if state.global_step == 2: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(cgd.rivals._Rollouts, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit_rival('trice', ASKED, cfg, tuned, tmp_path/'out')
    memories.clear()
    record = fit_rival('trice', ASKED, cfg, tuned, tmp_path/'out')
    assert memories == kept[-len(memories):] and len(memories) in (1, 2) and kept[0] != kept[-1]
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(tmp_path/f)] for f in ('out', 'whole'))
    assert ours == same and record['rewards'] == whole['rewards'] and record['tokens'] == whole['tokens'] and record['remembered_tokens'] == whole['remembered_tokens']


def test_operations_are_those_that_torch_counts(tiny_student, tmp_path):
    "As for GRPO, but half of what is learnt is not written"
    from torch.utils.flop_counter import FlopCounterMode
    cfg = CFG.model_copy(update=dict(steps=1, prompts=1, n=4, device_batch_size=4))
    with FlopCounterMode(display=False) as counter: record = fit_rival('trice', PROBLEMS[:1], cfg, tiny_student, tmp_path/'out')
    written, read = record['target_tokens'], (record['tokens'] - 4*24)/4
    assert written == 2*24 and record['remembered_tokens'] == 2*(read + 24)   # random weights end no text
    shape = model_shape(tiny_student)
    upper, head = training_flops(record, shape)['total'], 2*shape.vocab*shape.hidden
    less = head*((3*4 + 2)*read - 4*24)   # prompts need no head, and TRL makes the logits in pieces, once more for the way back
    assert counter.get_total_flops() == pytest.approx(upper - less, rel=.05)


def test_it_is_a_method_of_a_run(tiny_student, tmp_path, monkeypatch):
    "Right drafts of a table are learnt at once, since random weights get nothing right; a draft is all that is made"
    monkeypatch.setattr(cgd.pipeline, 'train_rival', fit_rival)
    given = [p | dict(draft=f'So 5 purses with 9 coins each hold 45 coins, and {i} more are {45 + i}.', reference=str(45 + i), solution=f'All together: 5 * 9 = 45 coins.\nWith the others: 45 + {i} = {45 + i} coins.\nThe answer is {45 + i}.', prompt=f'How many coins are in 5 purses with 9 coins each, and {i} more?') for i, p in enumerate(PROBLEMS)]
    cfg = RunConfig(name='trice', folder=str(tmp_path), student=tiny_student, student_engine='hf', traces=str(write_table(given, tmp_path/'given.jsonl')), methods=('trice',), benchmarks=('test:2',),
                    draft=SampleConfig(max_new_tokens=8), rl=CFG.model_copy(update=dict(steps=1, max_new_tokens=64, device_batch_size=8)))
    run(cfg, 'train')
    record = json.loads(cfg.path('models', 'trice', 'train.json').read_text())
    assert record['rewards'] == [0] and record['problems'] == 4 and record['idle_steps'] == 0 and read_losses(cfg.path('models', 'trice'))[0]['loss'] > 0
    with cfg.open_store() as store: assert len(store) == 0
