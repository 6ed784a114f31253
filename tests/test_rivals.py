"GRPO and self-distillation on a tiny model: paid by the grader and moved by it, as a second stage too, as methods of a run, stopped and gone on from, and counted"
import gc
import json
import weakref
from importlib import import_module

import pandas as pd
import pytest

import cgd.pipeline
import cgd.rivals
from cgd.costs import training_flops
from cgd.core import CgdError
from cgd.process import call_by_name
from cgd.evaluate import EvalConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.models import find_model, fingerprint, model_shape
from cgd.plan import RunConfig
from cgd.pipeline import run
from cgd.methods import METHODS
from cgd.rivals import REWARDS, RLConfig, Reward, _cut_padding, _draw, _rival_trainer, check_rival, fit_rival
from cgd.recipe import TrainConfig
from cgd.train import fit
from cgd.merge import merge_student
from cgd.trainer import read_losses, run_trainer
from cgd.views import Pairs, make_pair

CFG = RLConfig(steps=4, prompts=2, n=2, device_batch_size=2, max_new_tokens=12, lr=1e-3, save_steps=2, dtype='float32')
TRACES = [dict(problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=str(2*i), draft=f'It is {i}.', critique=f'That is {i} alone; add it twice.') for i in range(1, 4)]


@pytest.fixture(scope='module')
def student(tmp_path_factory):
    "A two-layer llama of random weights, with heads as wide as vLLM takes them on a CPU"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    folder, tokenizer = str(tmp_path_factory.mktemp('tiny')), AutoTokenizer.from_pretrained(find_model('smollm2'))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
                                 tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def tuned(student, tmp_path_factory):
    "First stage: a student that CGD has taught to answer 2 or 3, whatever the question"
    pairs = Pairs('cgd', [make_pair('cgd', dict(problem=t['prompt'], draft=t['draft'], critique=t['critique']), rf'\boxed{{{n}}}', f'{t["problem_id"]}-{n}') for t in TRACES for n in (2, 3)])
    folder = tmp_path_factory.mktemp('first')/'cgd'
    fit(pairs, TrainConfig(backend='trl', tuning='full', lr=5e-3, epochs=40, batch_size=6, device_batch_size=6, dtype='float32', save_steps=1000, schedule='constant'), student, folder)
    return folder


@pytest.fixture
def graded(monkeypatch):
    "What the grader was asked and what it said, while it works as ever"
    seen, grade_many = [], cgd.rivals.grade_many

    def look(pairs, grader):
        seen.append((list(pairs), [g.outcome for g in grade_many(pairs, grader)]))
        return grade_many(pairs, grader)
    monkeypatch.setattr(cgd.rivals, 'grade_many', look)
    return seen


def near(a, b): return all(x == pytest.approx(y, abs=1e-4) for x, y in zip(a, b, strict=True))


def test_errors_name_settings_that_rl_has(tmp_path):
    import torch
    class Full:
        def train(self, resume_from_checkpoint): raise torch.OutOfMemoryError
    with pytest.raises(CgdError, match='lower device_batch_size=8 .*, or max_new_tokens=256'): run_trainer(Full(), tmp_path/'none', 'f', RLConfig().recipe())
    with pytest.raises(CgdError, match='max_new_tokens=9000 is more than'): check_rival('grpo', RLConfig(max_new_tokens=9000), 'smollm2')


def test_vllm_writes_with_the_newest_weights(student):
    "An adapter that changes a lot at once: what is written, where it ends, and how likely it was, are what the model itself would say; nothing is left in memory"
    import torch
    from peft import get_peft_model
    from transformers import GenerationConfig
    from cgd.loading import load_base, lora_config
    from cgd.rivals import _sampling, _writer, write_by_vllm
    pytest.importorskip('vllm')
    model, prompts = load_base(student, CFG.recipe(), 'padded'), [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    adapted = get_peft_model(model, lora_config(CFG.recipe()))
    asked = dict(input_ids=torch.tensor([[0]*(6 - len(p)) + p for p in prompts]), attention_mask=torch.tensor([[0]*(6 - len(p)) + [1]*len(p) for p in prompts]))
    greedy = dict(max_new_tokens=12, pad_token_id=0, top_p=1.)
    with _writer(CFG, student, 6) as writer:
        themselves = model.generate
        write_by_vllm(adapted, writer)
        seen = []
        for turn in range(3):
            torch.manual_seed(turn)
            for name, w in adapted.named_parameters():
                if 'lora_B' in name: torch.nn.init.normal_(w)
            ours = adapted.generate(**asked, generation_config=GenerationConfig(**greedy, temperature=0., eos_token_id=1))
            assert ours.tolist() == themselves(**asked, generation_config=GenerationConfig(**greedy, do_sample=False, eos_token_id=1)).tolist() and ours.tolist() not in seen
            seen.append(ours.tolist())
        end = seen[-1][0][6 + 4]   # the first row now ends early
        short = adapted.generate(**asked, generation_config=GenerationConfig(**greedy, temperature=0., eos_token_id=[1, end])).tolist()[0][6:]
        assert short == (row := seen[-1][0][6:])[:row.index(end) + 1] + [0]*(len(short) - row.index(end) - 1)
        how = GenerationConfig(max_new_tokens=12, temperature=1., top_p=1., eos_token_id=1, pad_token_id=0)
        drawn = []
        for seed in (7, 7, 8):
            torch.manual_seed(seed)
            drawn.append(adapted.generate(**{k: v[:1].repeat(4, 1) for k, v in asked.items()}, generation_config=how).tolist())
        assert drawn[0] == drawn[1] != drawn[2] and len({tuple(row) for row in drawn[0]}) == 4
        params = _sampling(how, 2)
        for p in params: p.logprobs = 0
        for out in writer.llm.generate([dict(prompt_token_ids=p) for p in prompts], params, use_tqdm=False):
            tokens = out.outputs[0].token_ids
            with torch.inference_mode(): logp = adapted(torch.tensor([[*out.prompt_token_ids, *tokens]])).logits[0, len(out.prompt_token_ids) - 1:-1].log_softmax(-1)
            assert near([d[t].logprob for d, t in zip(out.outputs[0].logprobs, tokens)], logp[range(len(tokens)), tokens].tolist())
        held = weakref.ref(writer.llm.llm_engine.model_executor.driver_worker.model_runner.get_model())
    del out
    gc.collect()
    assert held() is None


@pytest.mark.parametrize('name, changes', [('grpo', {}), ('grpo', dict(tuning='full', beta=.1)), ('trice', dict(tuning='full'))])
def test_a_problem_is_read_once_for_its_tries(name, changes, student, tmp_path, monkeypatch):
    "Loss and gradient are TRL's, which reads it again for each try; an update is divided as it was written, where TRL would shuffle it"
    import torch
    cfg, read = CFG.model_copy(update=changes | dict(n=4, device_batch_size=4, rewards=dict(right=1.))), {}
    prompts, answers = torch.tensor([[0, 0, 5, 6, 7]]*4 + [[8, 9, 5, 6, 7]]*2), torch.randint(10, 90, (6, 5), generator=torch.Generator().manual_seed(0))
    seen = torch.arange(5) < torch.tensor([5, 3, 1, 0, 4, 2])[:, None]   # 0: TRL can leave out what was cut off
    inputs = dict(prompt_ids=prompts, prompt_mask=(prompts > 0).long(), completion_ids=answers*seen, completion_mask=seen.long(), num_items_in_batch=torch.tensor(15.),
                  advantages=torch.linspace(-1, 1, 6), ref_per_token_logps=torch.full((6, 5), -4.))

    def learnt(fault):
        monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: fault)
        method, rows = METHODS[name], [t | dict(memory=[]) for t in TRACES]
        tokenizer, drawn, _ = _draw(method, rows, cfg, student, 'auto')
        trainer = _rival_trainer(method, tokenizer, drawn, cfg, student, tmp_path/'checkpoints', 'x', None, 0)
        for n, p in trainer.model.named_parameters():
            if 'lora_B' in n: torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
        trainer.model.eval()
        trainer.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.update({fault: read.get(fault, 0) + given[0].numel()}))
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        trainer.model.train()
        trainer._generate_and_score_completions = lambda _: dict(at=torch.arange(8))
        order = []
        for trainer._step in range(2): order += trainer._prepare_inputs(None)['at'].tolist()
        return order, [loss, *(p.grad for p in trainer.model.parameters() if p.grad is not None)]
    (order, ours), (_, theirs) = learnt(''), learnt('it is not asked here')
    assert order == [*range(8)] and len(ours) > 5 and any(g.abs().max() > 1e-3 for g in ours)
    for a, b in zip(ours, theirs, strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert read == {'': (2 + 4 + 9) + (4 + 2 + 6), 'it is not asked here': 60}   # what a prompt begins with, and each answer with the token before it


@pytest.mark.parametrize('name, tuning', [('sdft', 'lora'), ('sdft', 'full'), ('sdpo', 'lora'), ('sd_zero', 'full')])
def test_student_and_teacher_read_a_prompt_once_for_its_tries(name, tuning, student, tmp_path, monkeypatch):
    "Loss and gradient are TRL's, whose models read it again for each try"
    import torch
    cfg, read = CFG.model_copy(update=dict(n=4, device_batch_size=4, tuning=tuning, rewards=dict(right=1.) if name != 'sdft' else None)), {}
    prompts, answers = torch.tensor([[0, 0, 5, 6, 7]]*4 + [[8, 9, 5, 6, 7]]*2), torch.randint(10, 90, (6, 5), generator=torch.Generator().manual_seed(0))
    seen, told = torch.arange(5) < torch.tensor([5, 3, 1, 0, 4, 2])[:, None], torch.tensor([[3, 5, 6, 7]]*3 + [[0, 3, 4, 5]] + [[8, 9, 5, 6]]*2)
    answers, seen = (torch.nn.functional.pad(x, (0, 2)) for x in (answers*seen, seen))   # another batch of the update has longer ones
    inputs = dict(prompt_ids=prompts, prompt_mask=(prompts > 0).long(), completion_ids=answers, completion_mask=seen.long(), teacher_input_ids=torch.cat([told, answers], 1),
                  teacher_attention_mask=torch.cat([told > 0, seen], 1).long(), self_distillation_mask=torch.tensor([1., 1, 1, 1, 1, 0]))

    def learnt(fault):
        monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: fault)
        tokenizer, drawn, _ = _draw(METHODS[name], TRACES, cfg, student, 'auto')
        trainer = _rival_trainer(METHODS[name], tokenizer, drawn, cfg, student, tmp_path/'checkpoints', 'x', None, 0)
        for n, p in trainer.model.named_parameters():
            if 'lora_B' in n: torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
        trainer.model.get_input_embeddings().weight.data.mul_(20.)   # a student with opinions
        for model in {trainer.model, trainer.teacher_model}:
            model.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.update({fault: read.get(fault, 0) + given[0].numel()}))
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        return [loss, *(p.grad for p in trainer.model.parameters() if p.grad is not None)]
    ours, theirs = learnt(''), learnt('it is not asked here')
    if name == 'sdft': assert _cut_padding(inputs)['teacher_input_ids'].equal(inputs['teacher_input_ids'][:, :-2]) and inputs['completion_ids'].shape == (6, 7)
    assert len(ours) > 5 and any(g.abs().max() > 1e-4 for g in ours)
    for a, b in zip(ours, theirs, strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3*b.abs().max().item())
    assert read['it is not asked here'] == 60 + 54 and read[''] == (2 + 4 + 9) + (4 + 2 + 6) + (3 + 3 + 9 + 3) + (3 + 2 + 6)


def test_transformers_writes_where_vllm_does_not_run(student, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'vLLM is not installed here')
    record = fit_rival('grpo', TRACES, CFG.model_copy(update=dict(steps=1)), student, tmp_path/'out')
    assert record['written_by'] == 'transformers' and 'vLLM is not installed here, so transformers writes the completions' in capsys.readouterr().err


def test_cgd_then_grpo_is_paid_by_the_grader(student, tuned, graded, tmp_path):
    whole = merge_student(student, tuned, tmp_path/'merged')
    assert whole == str(tuned)   # all weights were trained, so there is nothing to merge
    record = fit_rival('grpo', TRACES, CFG.model_copy(update=dict(steps=3)), whole, tmp_path/'grpo')
    assert record['steps'] == 3 == len(graded) and record['pairs'] == 12 and record['problems'] == 3
    assert record['rewards'] == pytest.approx([outcomes.count('right')/4 for _, outcomes in graded])
    for pairs, outcomes in graded:
        for (reference, text), outcome in zip(pairs, outcomes): assert (outcome == 'right') == (reference == '2' and r'\boxed{2}' in text)
    assert 0 < sum(record['rewards']) < 3   # it may say 2, which is right for one of three
    assert record['base_fingerprint'] == fingerprint(whole) != fingerprint(student)


@pytest.mark.parametrize('name', ['grpo', 'sdft'])
def test_stopped_and_gone_on_from(name, tuned, tmp_path, monkeypatch, long):
    if name == 'sdft' and not long: pytest.skip('the same code as for grpo: --long')
    cfg = CFG.model_copy(update=dict(steps=3, save_steps=1, n=4, temperature=2., beta=.1))   # so that completions of a problem differ; GRPO looks at how far it has come, too
    whole = fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'whole')

    def stop(self, args, state, control, **kw):
        if state.global_step == 2: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(cgd.rivals._Rollouts, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out')
    assert (tmp_path/'out.checkpoints'/'checkpoint-1').exists() and not (tmp_path/'out').exists()
    record = fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out')
    assert record['written_by'] == whole['written_by'] != 'transformers'
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(tmp_path/f)] for f in ('out', 'whole'))
    assert ours == same and len(ours) == 3 and record['rewards'] == whole['rewards']
    assert record['tokens'] == whole['tokens'] and (name == 'grpo' or all(r['loss'] > 0 for r in ours))   # GRPO's loss is a sum of advantages: 0 where completions are equally long
    assert not (tmp_path/'out.checkpoints').exists()
    assert [f.name for f in tmp_path.glob('out/**/*.safetensors')] == ['adapter_model.safetensors'] and json.loads((tmp_path/'out'/'adapter_config.json').read_text())['base_model_name_or_path'] is None
    assert fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out') == record   # a second time there is nothing to do


def test_grpo_moves_towards_what_is_paid(tuned, tmp_path):
    "Half of what it says is right at first"
    from safetensors.torch import load_file
    paid = [t | dict(reference='2') for t in TRACES]
    cfg = CFG.model_copy(update=dict(tuning='full', steps=10, n=8, device_batch_size=16, max_new_tokens=8, lr=2e-3, save_steps=100))
    rewards = fit_rival('grpo', paid, cfg, str(tuned), tmp_path/'out')['rewards']
    assert all(.1 < r < .9 for r in rewards[:4]) and sum(rewards[-4:])/4 > sum(rewards[:4])/4 + .15
    before, after = (load_file(folder/'model.safetensors') for folder in (tuned, tmp_path/'out'))
    assert before.keys() == after.keys() and all(not before[name].equal(w) for name, w in after.items() if 'proj' in name)


@pytest.mark.parametrize('name', ['grpo', 'sdft'])
def test_operations_are_those_that_torch_counts(name, student, tmp_path, monkeypatch):
    "By transformers, whose operations torch sees. All weights, one prompt, completions of one length: no padding. The formula takes the head for prompts, too, which trainer and generator do not"
    from torch.utils.flop_counter import FlopCounterMode
    cfg = CFG.model_copy(update=dict(steps=1, prompts=1, n=4, device_batch_size=4, tuning='full', lr=1e-4, rewards=dict(one=1.) if name == 'grpo' else None))
    monkeypatch.setitem(REWARDS, 'one', Reward('Some.', lambda texts, *rest: [1.] + [0.]*(len(texts) - 1)))   # else nothing would be learnt
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'operations are counted')
    with FlopCounterMode(display=False) as counter: record = fit_rival(name, TRACES[:1], cfg, student, tmp_path/'out')
    assert record['target_tokens'] == 4*12   # random weights end no text
    shape, read = model_shape(student), record['tokens'] - record['teacher_tokens'] - record['target_tokens']
    upper, head = training_flops(record, shape)['total'], 2*shape.vocab*shape.hidden
    theirs = record['teacher_tokens'] - record['target_tokens'] if name == 'sdft' else 0
    again = record['target_tokens'] if name == 'grpo' else 0   # TRL makes GRPO's logits in pieces, and once more for the way back
    assert counter.get_total_flops() == pytest.approx(upper - head*(4*read + theirs - again), rel=.05) and counter.get_total_flops() < upper


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    "A run with a rival, another, and a second stage whose first is no method of the run, all in this process: four times torch and TRL would take minutes"
    cfg = RunConfig(name='rivals', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', adapters='serve', n_problems=6, methods=('grpo', 'sdft', 'cgd-then-grpo'),
                    benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8),
                    rl=RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=100))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(cgd.pipeline, 'train_rival', fit_rival)
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        yield cfg, run(cfg)


def test_a_run_of_rivals(finished):
    cfg, said = finished
    assert all(f' {m} ' in said for m in ('base', *cfg.methods)) and 'grpo, sdft, cgd-then-grpo: 2 updates of 2 problems with 2 completions each' in said
    assert sorted(f.name for f in cfg.path('records').iterdir()) == ['base.test.parquet', 'cgd-then-grpo.test.parquet', 'grpo.test.parquet', 'sdft.test.parquet']
    made = {f.parent.name: json.loads(f.read_text()) for f in cfg.path('models').glob('*/train.json')}
    assert made.keys() == {'cgd', *cfg.methods} and made['cgd-then-grpo']['base'] == 'cgd-merged' and made['grpo']['base_fingerprint'] == made['sdft']['base_fingerprint'] == made['cgd']['base_fingerprint']
    assert sorted(f.name for f in cfg.path('models').glob('*-merged')) == ['cgd-merged', 'cgd-then-grpo-merged']   # the others took turns on one base
    with Store(cfg.path('store.sqlite')) as store: asked = [s for s in sessions(store) if s['stage'] == 'evaluate']
    assert len({s['model'] for s in asked}) == 4 and sum(s['load_seconds'] > 0 for s in asked) == 2


def test_what_rivals_cost(finished):
    cfg, _ = finished
    ledger = pd.read_csv(cfg.path('ledger.csv'), keep_default_na=False).set_index(['method', 'stage', 'who']).flops.astype(float)
    costs = pd.read_csv(cfg.path('costs.csv')).set_index('method').flops
    train = {m: ledger[m, 'train', 'student'] for m in ('cgd', *cfg.methods)}
    assert costs['grpo'] == pytest.approx(train['grpo'], rel=1e-4) and train['sdft'] > train['grpo']
    assert costs['sdft'] == pytest.approx(train['sdft'] + ledger['', 'draft', 'student'], rel=1e-4)   # the oracle teacher is no model
    assert costs['cgd-then-grpo'] == pytest.approx(train['cgd'] + train['cgd-then-grpo'] + ledger['', 'draft', 'student'], rel=1e-4)
    assert set(pd.read_csv(cfg.path('reach.csv')).method) == set(cfg.methods) and set(pd.read_csv(cfg.path('losses.csv')).query('reward == reward').method) == {'grpo', 'cgd-then-grpo'}


def test_a_run_of_rivals_goes_on_at_no_cost(finished):
    cfg, said = finished
    with Store(cfg.path('store.sqlite')) as store: before = sessions(store)
    when = {f: f.stat().st_mtime_ns for f in cfg.path('models').rglob('*.safetensors')}
    assert run(cfg) == said
    with Store(cfg.path('store.sqlite')) as store: assert sessions(store) == before
    assert when and when == {f: f.stat().st_mtime_ns for f in cfg.path('models').rglob('*.safetensors')}


def test_rows_that_cannot_be_used(student, tmp_path):
    with pytest.raises(CgdError, match='p1 has no reference'): fit_rival('grpo', [TRACES[0] | dict(reference=None)], CFG, student, tmp_path/'out')
    with pytest.raises(CgdError, match='no room for 2000 tokens in 2048'): fit_rival('grpo', TRACES, CFG.model_copy(update=dict(max_new_tokens=2000)), student, tmp_path/'out')
    with pytest.raises(CgdError, match='a marker of the chat template'): fit_rival('sdft', [TRACES[0] | dict(critique='Right.<|im_end|>')], CFG, student, tmp_path/'out')
