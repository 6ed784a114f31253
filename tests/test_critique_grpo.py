"Critique-GRPO: where all tries fail a refinement joins the group, is learnt as an answer to the problem alone, moves the student where GRPO is idle, and is counted; a critique that fails leads to none"
import json
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest

import cgd.critique_grpo
import cgd.pipeline
import cgd.rivals
from cgd.core import CgdError
from cgd.costs import ledger
from cgd.critique_grpo import criticise, refine_failed, refine_ids, token_weights
from cgd.evaluate import EvalConfig
from cgd.generate import Engine, EngineConfig
from cgd.methods import METHODS
from cgd.models import load_tokenizer, model_shape
from cgd.oracle import OracleTeacher
from cgd.pipeline import run
from cgd.plan import Plan, RunConfig, plan
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.rivals import RLConfig, fit_rival
from cgd.store import Completion, SampleConfig
from cgd.teacher import LMTeacher, TeacherConfig, critique
from cgd.train import fit
from cgd.views import Pairs, make_pair

N = 4
CFG = RLConfig(steps=3, prompts=2, n=N, device_batch_size=4, max_new_tokens=24, lr=1e-5, save_steps=1, dtype='float32', tuning='full', no_leak=False)
PROBLEMS = [dict(problem_id=f'p{i}', prompt=f'What is {i} + 1 + {4 - i}?', reference='5', solution=f'{i} + 1 = {i + 1}\n{i + 1} + {4 - i} = 5\nThe answer is 5.') for i in range(1, 5)]
RIGHT, WRONG, OTHER = r'It is \boxed{5}.', r'It is \boxed{3}.', r'It is \boxed{7}.'
ORACLE = 'oracle', TeacherConfig(detail='exact'), {}


@pytest.fixture(scope='module')
def tuned(tiny_student, tmp_path_factory):
    "A student that answers each problem with 3, 5 or 7, as often this as that"
    asked = {p['problem_id']: CFG.template.replace('{prompt}', p['prompt']) for p in PROBLEMS}
    pairs = Pairs('dsft_refined', [make_pair('dsft_refined', dict(problem=asked[p]), text, f'{p}-{text}') for p in asked for text in (RIGHT, WRONG, OTHER)])
    folder = tmp_path_factory.mktemp('tuned')/'student'
    fit(pairs, TrainConfig(backend='trl', tuning='full', lr=3e-3, epochs=25, batch_size=12, device_batch_size=12, dtype='float32', save_steps=1000, schedule='constant'), tiny_student, folder)
    return str(folder)


@pytest.fixture(scope='module')
def tokenizer(tiny_student): return load_tokenizer(tiny_student)


def write_by(monkeypatch, says):
    "Completions as a function says them, given a prompt, whether it shows a critique, and its place in the batch; returns what was asked. No model writes: what is tested is what becomes of the texts"
    import torch
    asked = []

    def let(model, writer):
        tokenizer = load_tokenizer(model.name_or_path)

        def generate(input_ids, attention_mask, generation_config):
            prompts = [row[seen.bool()].tolist() for row, seen in zip(input_ids, attention_mask)]
            asked.append(prompts)
            texts = [says(text, '<critique>' in text, i) for i, text in enumerate(map(tokenizer.decode, prompts))]
            made = [torch.tensor([*tokenizer(text)['input_ids'], generation_config.eos_token_id[0] if isinstance(generation_config.eos_token_id, list) else generation_config.eos_token_id]) for text in texts]
            return torch.cat([input_ids, torch.nn.utils.rnn.pad_sequence(made, batch_first=True, padding_value=generation_config.pad_token_id)], 1)
        model.generate = generate

    @contextmanager
    def writer(cfg, folder, longest): yield SimpleNamespace(version='a script')
    monkeypatch.setattr(cgd.rivals, '_writer', writer)
    monkeypatch.setattr(cgd.rivals, 'write_by_vllm', let)
    return asked


def some_right(text, refines, i): return (RIGHT if i % 3 == 1 else OTHER) if refines else WRONG   # all tries fail; of three refinements the second is right


def rows_of(*problems, n=N):
    "The problem of each completion, as the trainer has it"
    return [dict(p, messages=[dict(role='user', content=CFG.template.replace('{prompt}', p['prompt']))], read=30) for p in problems for _ in range(n)]


def ids_of(tokenizer, texts): return [[*tokenizer(text)['input_ids'], tokenizer.eos_token_id] for text in texts]


class Teacher(OracleTeacher):
    "The oracle, unless it says something else"
    def __init__(self, detail='withheld', **says):
        super().__init__(detail)
        self.says, self.asked = says, []

    def critique(self, rows, store=None):
        self.asked += rows
        return [Completion(**vars(c) | self.says) for c in super().critique(rows)]


def refine(tokenizer, texts, problems, teacher, says=lambda i: RIGHT, room=2000, **settings):
    "Through `refine_failed`: texts, which are refinements, counts, and what was asked for"
    asked = []

    def write(prompts):
        asked.extend(prompts)
        return ids_of(tokenizer, [says(i) for i in range(len(prompts))])
    cfg, asks = CFG.model_copy(update=settings), SimpleNamespace(teacher=teacher, store=None)
    done, refined, counts = refine_failed(ids_of(tokenizer, texts), rows_of(*problems), cfg, asks, room, tokenizer, write)
    return tokenizer.batch_decode(done, skip_special_tokens=True), refined, counts, asked


def test_a_group_that_fails_gets_one_refinement_and_a_mixed_one_none(tokenizer):
    tries = [WRONG, OTHER, WRONG, WRONG, WRONG, RIGHT, WRONG, WRONG]
    teacher = Teacher()
    texts, refined, counts, asked = refine(tokenizer, tries, PROBLEMS[:2], teacher, lambda i: RIGHT)
    assert texts == [*tries[:3], RIGHT, *tries[4:]] and refined == [False, False, False, True] + [False]*4
    assert [(r['problem_id'], r['draft']) for r in teacher.asked] == [('p1', text) for text in tries[:3]]   # the others are not criticised
    assert len(asked) == 3 and counts | dict(groups_failed=1, refined=1, refined_right=1, critiques_failed=0, critiques_leaked=0, refinements_too_long=0) == counts
    said = [tokenizer.decode(prompt) for prompt in asked]
    for text, prompt in zip(tries, said): assert f'<draft>\n{text}\n</draft>' in prompt and '<critique>' in prompt and PROBLEMS[0]['prompt'] in prompt and r'final answer in \boxed{}' in prompt
    kept, written, brief = (len(ids_of(tokenizer, [text])[0]) for text in (RIGHT, WRONG, RIGHT))
    assert (counts['requests'], counts['prompt_tokens'], counts['completion_tokens']) == (3 + 1, sum(map(len, asked)) + 30 + kept, written + 2*brief)


def test_a_language_model_is_asked_about_a_try_as_about_any_draft(tmp_path):
    "Traps: it is told that the try is wrong, so that its conclusion says nothing; it sees the gold answer unasked"
    heard = []

    class Listens(LMTeacher):
        def answer(self, rows, asked, store, stage):
            heard.append(asked)
            return [Completion('It adds wrongly.\nConclusion: wrong', 'stop', 9, 9)]*len(rows)
    teacher = Listens(Engine('none:m', 'm', EngineConfig()), TeacherConfig())
    criticise([WRONG]*N, rows_of(PROBLEMS[0]), [0], CFG, SimpleNamespace(teacher=teacher, store=None))
    critique([PROBLEMS[0] | dict(reference='3', solution='It is 3.', draft=WRONG, draft_grade='right', student='student', sample=i) for i in range(N - 1)], teacher)
    tries, drafts = heard
    assert tries == drafts and len(tries) == N - 1 and all(PROBLEMS[0]['solution'] not in str(turns) for turns in tries)


@pytest.mark.parametrize('said', [(OTHER, RIGHT, OTHER), (OTHER, OTHER, RIGHT), (RIGHT, OTHER, OTHER)])
def test_a_right_refinement_is_kept_wherever_it_stands(tokenizer, said):
    texts, _, counts, _ = refine(tokenizer, [WRONG]*N, PROBLEMS[:1], Teacher(), lambda i: said[i])
    assert texts == [WRONG]*3 + [RIGHT] and counts['refined_right'] == 1


def test_where_no_refinement_is_right_the_first_joins(tokenizer):
    texts, refined, counts, _ = refine(tokenizer, [WRONG]*N, PROBLEMS[:1], Teacher(), lambda i: (OTHER, WRONG, WRONG)[i])
    assert texts == [WRONG]*3 + [OTHER] and refined[-1] and (counts['refined'], counts['refined_right']) == (1, 0)


@pytest.mark.parametrize('teacher, settings, why', [
    (Teacher(text='', finish_reason='stop'), {}, 'critiques_failed'),
    (Teacher(finish_reason='length'), {}, 'critiques_failed'),
    (Teacher(text='', finish_reason='too_long'), {}, 'critiques_failed'),
    (Teacher(text='All is well.\nConclusion: right'), {}, 'critiques_failed'),
    (Teacher(text='Look again.'), {}, 'critiques_failed'),
    (Teacher('exact'), dict(no_leak=True), 'critiques_leaked'),
    (Teacher(), dict(room=60), 'refinements_too_long')], ids=['empty', 'cut', 'refused', 'praise', 'no verdict', 'leaks', 'too long'])
def test_a_critique_that_cannot_be_used_leads_to_no_refinement_and_is_counted(tokenizer, teacher, settings, why):
    "Nor is the gold answer shown in its place: nothing is written at all"
    texts, refined, counts, asked = refine(tokenizer, [WRONG]*N, PROBLEMS[:1], teacher, **settings)
    assert texts == [WRONG]*N and not any(refined) and asked == [] and counts[why] == 3 and counts['refined'] == 0
    assert (counts['requests'], counts['prompt_tokens'], counts['completion_tokens']) == (0, 0, 0)


def test_weights_are_the_gradient_of_what_the_paper_learns():
    "Autograd of A*p/(p + g) for log p, in double precision, against A times our weight"
    import torch
    logits = torch.randn(64, 9, dtype=torch.float64).mul(4).requires_grad_()
    logps, a = logits.log_softmax(-1)[:, 0], torch.randn(64, dtype=torch.float64)
    theirs, = torch.autograd.grad((a*logps.exp()/(logps.exp() + .1)).sum(), logits, retain_graph=True)
    ours, = torch.autograd.grad((a*token_weights(logps.detach())*(logps - logps.detach()).exp()).sum(), logits)
    assert (ours - theirs).abs().max() < 1e-10 and theirs.abs().max() > .01
    assert token_weights(torch.tensor([.1], dtype=torch.float64).log()).item() == pytest.approx(.25) and token_weights(torch.tensor(-50.)).item() < 1e-20


@pytest.fixture(scope='module')
def update(tuned, tmp_path_factory):
    "One update by a script: what TRL had made of it, what became of that, and the gradient of TRL's loss"
    import torch
    seen = SimpleNamespace(batches=[])
    with pytest.MonkeyPatch.context() as m:
        seen.asked = write_by(m, lambda text, refines, i: WRONG if 'What is 2' not in text and not refines else some_right(text, refines, i) if refines else [WRONG, RIGHT][i % 2])
        weigh = cgd.critique_grpo._weigh

        def look(trainer, batch, refined):
            after = weigh(trainer, batch, refined)
            seen.batches.append((dict(batch), after, refined))
            if len(seen.batches) == 1:
                trainer.model.zero_grad()
                trainer._compute_loss(trainer.model, after).backward()
                seen.gradient = {name: w.grad.clone() for name, w in trainer.model.named_parameters()}
                seen.steps = trainer.current_gradient_accumulation_steps
                trainer.model.zero_grad()
                seen.model = {k: v.clone() for k, v in trainer.model.state_dict().items()}
            return after
        m.setattr(cgd.critique_grpo, '_weigh', look)
        seen.record = fit_rival('critique_grpo', PROBLEMS[:2], CFG.model_copy(update=dict(steps=1)), tuned, tmp_path_factory.mktemp('update')/'out', teacher=ORACLE)
    return seen


def group_of(update, tokenizer, problem): # rows of the batch
    batch, _, _ = update.batches[0]
    return [i for i, ids in enumerate(batch['prompt_ids']) if problem['prompt'] in tokenizer.decode(ids)]


def test_an_update_is_not_idle_and_its_advantages_are_rewards_less_their_mean(update, tokenizer):
    batch, after, refined = update.batches[0]
    failed, mixed = (group_of(update, tokenizer, p) for p in PROBLEMS[:2])
    assert batch['advantages'][failed].tolist() == pytest.approx([-1/N]*(N - 1) + [1 - 1/N]) and [refined[i] for i in failed] == [False]*(N - 1) + [True]
    assert sorted(batch['advantages'][mixed].tolist()) == pytest.approx([-.5, -.5, .5, .5]) and not any(refined[i] for i in mixed)
    assert update.record['idle_steps'] == 0 and update.record['rewards'] == [pytest.approx(3/8)]
    tokens = batch['completion_ids'].size(1)
    for i, a in enumerate(batch['advantages'].tolist()):
        if not refined[i]: assert after['advantages'][i].tolist() == pytest.approx([a]*tokens)


def test_a_refinement_stands_behind_the_problem_alone(update, tokenizer):
    batch, _, refined = update.batches[0]
    failed = group_of(update, tokenizer, PROBLEMS[0])
    assert len({(tuple(batch['prompt_ids'][i].tolist()), tuple(batch['prompt_mask'][i].tolist())) for i in failed}) == 1 and sum(refined) == 1
    assert not any('<critique>' in tokenizer.decode(ids) for ids in batch['prompt_ids'])
    assert ['<critique>' in tokenizer.decode(prompt) for prompt in update.asked[1]] == [True]*(N - 1) and len(update.asked) == 2
    assert tokenizer.decode(batch['completion_ids'][failed[-1]], skip_special_tokens=True) == RIGHT


def test_the_gradient_of_an_update_is_that_of_the_papers_objective(update, tuned):
    "Written out: the sum over tokens of A*p/p_old for tries and A*p/(p + .1) for the refinement, over completions times the longest there can be"
    import torch
    from transformers import AutoModelForCausalLM
    batch, _, refined = update.batches[0]
    model = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    model.load_state_dict(update.model)
    total = 0.
    for i, a in enumerate(batch['advantages'].tolist()):
        prompt, answer = (batch[f'{part}_ids'][i][batch[f'{part}_mask'][i].bool()] for part in ('prompt', 'completion'))
        logps = model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1:-1].log_softmax(-1)[range(len(answer)), answer]
        total = total + a*(logps.exp()/(logps.exp() + .1) if refined[i] else (logps - logps.detach()).exp()).sum()
    (-total/(len(refined)*CFG.max_new_tokens)/update.steps).backward()
    theirs = {name: w.grad for name, w in model.named_parameters()}
    assert theirs.keys() == update.gradient.keys() and max(g.abs().max() for g in theirs.values()) > 1e-4
    for name, g in theirs.items(): assert (update.gradient[name] - g).abs().max() < 2e-3*max(g.abs().max(), 1e-3), name


def logp(folder, text):
    "How likely a student finds a text, given each problem alone; the mean over problems"
    import torch
    from transformers import AutoModelForCausalLM
    model, tokenizer, sums = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder), []
    for p in PROBLEMS:
        ids = tokenizer.apply_chat_template([dict(role='user', content=CFG.template.replace('{prompt}', p['prompt']))], add_generation_prompt=True)['input_ids']
        answer = ids_of(tokenizer, [text])[0]
        with torch.no_grad(): logits = model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1:-1]
        sums.append(logits.log_softmax(-1)[range(len(answer)), answer].sum().item())
    return sum(sums)/len(sums)


@pytest.fixture(scope='module')
def both(tuned, tmp_path_factory):
    "GRPO and this method in one setting, by one script: each try is wrong"
    out = tmp_path_factory.mktemp('both')
    with pytest.MonkeyPatch.context() as m:
        asked = write_by(m, some_right)
        return out, {name: fit_rival(name, PROBLEMS, CFG, tuned, out/name, teacher=ORACLE) for name in ('grpo', 'critique_grpo')}, asked


def test_it_learns_where_grpo_is_idle(both, tuned):
    out, records, _ = both
    assert [records[name]['idle_steps'] for name in ('grpo', 'critique_grpo')] == [3, 0]   # GRPO does nothing
    before, idle, after = ({text: logp(str(folder), text) for text in (RIGHT, WRONG, OTHER)} for folder in (tuned, out/'grpo', out/'critique_grpo'))
    assert idle == pytest.approx(before, abs=1e-6)
    gain = {text: after[text] - before[text] for text in before}
    assert gain[RIGHT] > 1.05*gain[OTHER] > 0 > gain[WRONG]   # OTHER is as long, and was written, but not kept; it gains what WRONG loses


def test_all_that_it_read_and_wrote_is_in_the_record_and_the_ledger(both, tuned):
    _, records, asked = both
    r = records['critique_grpo']
    ours = asked[CFG.steps:]   # GRPO asked once an update
    assert [len(some) for some in ours] == [8, 6]*3 and r['asked'][-1]['model'] == 'critique_grpo'
    assert {k: r[k] for k in ('groups_failed', 'refined', 'refined_right', 'critiques_failed', 'critiques_leaked', 'refinements_too_long')} == dict(groups_failed=6, refined=6, refined_right=6, critiques_failed=0, critiques_leaked=0, refinements_too_long=0)
    size, answer = (lambda some: sum(map(len, some))), len(ids_of(load_tokenizer(tuned), [RIGHT])[0])
    read, refined = sum(map(size, ours[::2])), sum(map(size, ours[1::2]))
    beside = r['asked'][-1]
    assert r['tokens'] == read + r['target_tokens'] == read + 24*answer   # all texts are equally long
    assert beside['prompt_tokens'] == refined + read/4 + 6*answer and beside['completion_tokens'] == 18*answer and beside['requests'] == 18 + 6
    line, = ledger([], dict(critique_grpo=r), model_shape(tuned))
    assert (line['who'], line['prompt_tokens'], line['completion_tokens']) == ('student', read + beside['prompt_tokens'], 24*answer + 18*answer)
    alone, = ledger([], dict(critique_grpo=r | dict(asked=[])), model_shape(tuned))
    assert line['flops'] > alone['flops']


def test_stopped_and_gone_on_from(both, tuned, tmp_path, monkeypatch):
    write_by(monkeypatch, some_right)

    def stop(self, args, state, control, **kw):
        if state.global_step == 2: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(cgd.rivals._Rollouts, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit_rival('critique_grpo', PROBLEMS, CFG, tuned, tmp_path/'critique_grpo', teacher=ORACLE)
    assert (tmp_path/'critique_grpo.checkpoints'/'checkpoint-1').exists()
    record = fit_rival('critique_grpo', PROBLEMS, CFG, tuned, tmp_path/'critique_grpo', teacher=ORACLE)
    same = [{k: v for k, v in r.items() if k not in ('seconds', 'versions', 'peak_gib')} for r in (record, both[1]['critique_grpo'])]
    assert same[0] == same[1]


def test_what_cannot_work_is_said_before_anything_is_loaded(tiny_student, tmp_path):
    with pytest.raises(CgdError, match='a teacher is asked while it trains'): fit_rival('critique_grpo', PROBLEMS, CFG, tiny_student, tmp_path/'out')
    with pytest.raises(CgdError, match='p1 has no reference'): fit_rival('critique_grpo', [PROBLEMS[0] | dict(reference=None)], CFG, tiny_student, tmp_path/'out', teacher=ORACLE)
    table = tmp_path/'problems.jsonl'
    table.write_text('\n'.join(json.dumps({k: v for k, v in p.items() if k != 'solution'}) for p in PROBLEMS))
    how = dict(problems=str(table), methods=('critique_grpo',), student=tiny_student, benchmarks=('test:2',), n_problems=None)
    with pytest.raises(CgdError, match='has no solution, which the oracle teacher needs'): plan(RunConfig(**how))


def test_a_plan_has_a_judge_and_needs_no_stage_for_it(tiny_student):
    alone, second = (Plan(RunConfig(methods=(name,), judge='hf:smollm2')) for name in ('critique_grpo', 'cgd-then-critique_grpo'))
    assert alone.judge.spec == second.judge.spec == 'hf:smollm2' and alone.stages == set() and second.stages == {'draft', 'critique', 'refine'}
    assert Plan(RunConfig(methods=('critique_grpo',))).judge.oracle


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    "A run with it alone and as a second stage, all in this process: several times torch and TRL would take minutes"
    cfg = RunConfig(name='critique_grpo', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', adapters='serve', n_problems=4, methods=('critique_grpo', 'cgd-then-critique_grpo'),
                    benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8),
                    rl=RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=100))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(cgd.pipeline, 'train_rival', fit_rival)
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        yield cfg, run(cfg)


def test_a_run_has_it_alone_and_as_a_second_stage(finished):
    cfg, said = finished
    assert all(f' {m} ' in said for m in ('base', *cfg.methods))
    made = {f.parent.name: json.loads(f.read_text()) for f in cfg.path('models').glob('*/train.json')}
    assert made.keys() == {'cgd', *cfg.methods} and made['cgd-then-critique_grpo']['base'] == 'cgd-merged'
    for name in cfg.methods:   # a random model fails, and the oracle says so
        r = made[name]
        assert r['groups_failed'] == 4 == r['refined'] + (r['critiques_failed'] + r['critiques_leaked'] + r['refinements_too_long']) and r['refined'] > 0 and r['written_by'].startswith('vllm')
    lines = pd.read_csv(cfg.path('ledger.csv'), keep_default_na=False).set_index(['method', 'stage', 'who'])
    for name in cfg.methods: assert lines.completion_tokens[name, 'train', 'student'] > made[name]['target_tokens']
    assert METHODS['critique_grpo'].label in cfg.path('report.html').read_text()
