"What a notebook cannot show well: training killed in mid-run goes on as if nothing had happened, and both backends learn the same"
import json, os, random, shutil, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from cgd.core import CgdError, checksum
from cgd.recipe import TrainConfig
from cgd.rivals import RLConfig, fit_rival
from cgd.train import check_training, fit, train
from cgd.merge import merge_student
from cgd.trainer import read_losses
from cgd.views import Pairs, make_pair

CFG = TrainConfig(epochs=5, batch_size=4, device_batch_size=2, save_steps=2, lr=2e-2, lora_dropout=.1)  # 20 steps; dropout tests the random state

def tiny_student(folder, seed=0):
    "A two-layer llama of random weights with the embedded student's tokenizer"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from cgd.models import find_model
    tokenizer = AutoTokenizer.from_pretrained(find_model('smollm2'))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
                                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    model.save_pretrained(folder); tokenizer.save_pretrained(folder)
    return str(folder)

def sums(n):
    "Pairs of unequal length, so that batches are padded and grouped"
    draw = random.Random(0)
    def terms(i): return ' + '.join(str(draw.randint(1, 9)) for _ in range(2 + i % 5))
    return Pairs('sft', [make_pair('sft', dict(problem=f'What is {t}?'), f'{t} = {eval(t)}. The answer is {eval(t)}.', f'{i}')
                         for i, t in enumerate(map(terms, range(n)))])

@pytest.fixture(scope='module')
def student(tmp_path_factory): return tiny_student(tmp_path_factory.mktemp('tiny'))

@pytest.fixture(scope='module')
def whole(student, tmp_path_factory):
    "An undisturbed run of plain TRL"
    out = tmp_path_factory.mktemp('whole')/'sft'
    return out, train(sums(16), CFG.model_copy(update=dict(backend='trl')), student, out, progress=False)

def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder/'adapter_model.safetensors')

def test_a_folder_of_something_else_is_left_alone(student, whole, tmp_path):
    "A finished student takes the place of an earlier one, and of nothing else"
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis'/'chapter.txt').write_text('years of work')
    for make in (lambda out: fit(sums(4), CFG, student, out), lambda out: train(sums(4), CFG, student, out, progress=False), lambda out: merge_student(student, whole[0], out),
                 lambda out: fit_rival('grpo', [dict(problem_id='p', prompt='What is 1 + 1?', reference='2')]*4, RLConfig(steps=1, prompts=2, n=2), student, out)):
        with pytest.raises(CgdError, match='thesis: is there, and was not made by cgd'): make(tmp_path/'thesis')
    assert (tmp_path/'thesis'/'chapter.txt').read_text() == 'years of work'


def test_kill_and_resume(student, whole, tmp_path):
    cfg, out = CFG.model_copy(update=dict(backend='trl')), tmp_path/'sft'
    script = tmp_path/'go.py'
    script.write_text('import pickle, sys\nfrom cgd.train import train\n'
                      "if __name__ == '__main__': train(*pickle.load(open(sys.argv[1], 'rb')), progress=False)\n")
    import pickle
    (tmp_path/'job').write_bytes(pickle.dumps((sums(16), cfg, student, out)))
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path/'job')], start_new_session=True)
    checkpoints, until = tmp_path/'sft.checkpoints', time.time() + 120
    while not (checkpoints/'.checkpoint-6.made.json').exists() and time.time() < until and run.poll() is None: time.sleep(.02)   # in the second epoch, whose order differs
    assert run.poll() is None and (checkpoints/'.checkpoint-6.made.json').exists(), 'it ended before it could be killed'
    os.killpg(run.pid, signal.SIGKILL); run.wait()
    assert not out.exists()
    record = train(sums(16), cfg, student, out, progress=False)
    same, ours = read_losses(whole[0]), read_losses(out)
    assert record['steps'] == 20 and [r['step'] for r in ours] == list(range(1, 21))
    assert [(r['loss'], r['lr'], r['tokens']) for r in ours] == [(r['loss'], r['lr'], r['tokens']) for r in same]  # order of the data too
    import torch
    for name, w in weights(whole[0]).items(): torch.testing.assert_close(weights(out)[name], w, rtol=1e-5, atol=1e-8)
    assert not checkpoints.exists()

def test_learns(whole):
    losses = [r['loss'] for r in read_losses(whole[0])]
    assert sum(losses[-4:]) < .97*sum(losses[:4])   # embeddings are random and frozen, so it cannot fall far

def test_backends_agree(student, tmp_path):
    if not find_spec('unsloth'): pytest.skip('Unsloth is not installed')
    losses, held = {}, Pairs('sft', [make_pair('sft', dict(problem=f'What is {i} times 2?'), f'{2*i}.', f'v{i}') for i in range(3)])
    for backend in ('trl', 'unsloth'):
        record = train(sums(16), CFG.model_copy(update=dict(backend=backend, lora_dropout=0., save_steps=10, keep='best')), student, tmp_path/backend, progress=False, validation=held)
        assert record['backend'] == backend
        losses[backend] = [r['loss'] for r in read_losses(tmp_path/backend) + read_losses(tmp_path/backend, validation=True)]
    assert len(losses['trl']) == len(losses['unsloth']) == 22   # 20 steps, and 2 looks at the validation set
    assert max(abs(a/b - 1) for a, b in zip(losses['trl'], losses['unsloth'])) < .02

def plain(monkeypatch):
    "What a CPU does by itself, undone: PEFT's own adapters, the head's logits computed twice"
    import cgd.loading
    monkeypatch.setattr(cgd.loading, 'lean_adapters', lambda model: None)
    monkeypatch.setattr(cgd.loading, '_frozen_logprobs', lambda: pytest.fail('not here'))
    usual = cgd.loading._torch_logprobs
    monkeypatch.setattr(cgd.loading, '_torch_logprobs', lambda hidden, weight, *rest: usual(hidden, weight if weight.requires_grad else weight.detach().requires_grad_(), *rest))

@pytest.mark.parametrize('dtype, tuning, same, epochs', [('float32', 'lora', 1e-5, 3), ('float32', 'full', 1e-5, 1), ('bfloat16', 'lora', 1e-3, 1)])
def test_what_a_cpu_saves_changes_no_loss(student, tmp_path, monkeypatch, dtype, tuning, same, epochs):
    "Pairs end to end, a shared beginning, lean adapters and head, against padding and plain PEFT: step by step"
    import torch
    if torch.cuda.is_available(): pytest.skip('a GPU does none of it')
    cfg, held = CFG.model_copy(update=dict(backend='trl', dtype=dtype, tuning=tuning, lora_dropout=0., lr=2e-3, epochs=epochs, device_batch_size=4, save_steps=2*epochs)), sums(20).rows[16:]
    held = Pairs('sft', [r | dict(problem=f"Now: {r['problem']}", prompt=[dict(role='user', content=f"Now: {r['problem']}")]) for r in held])
    ours = fit(sums(16), cfg, student, tmp_path/'ours', validation=held)
    with monkeypatch.context() as m:
        plain(m)
        theirs = fit(sums(16), cfg.model_copy(update=dict(batching='padded')), student, tmp_path/'theirs', validation=held)
    assert (ours['backend'], ours['batching'], theirs['batching']) == ('trl', 'padding_free', 'padded') and ours['steps'] == 4*epochs
    for validation in (False, True):
        pairs = list(zip(*(read_losses(tmp_path/name, validation) for name in ('ours', 'theirs')), strict=True))
        assert max(abs(a['loss'] - b['loss']) for a, b in pairs) < same
        assert [a.get('tokens') for a, _ in pairs] == [b.get('tokens') for _, b in pairs]   # a shared beginning counts for each pair

def test_small_updates_arrive_in_bfloat16(student, tmp_path):
    "The adapter is computed in bfloat16 and kept in float32: steps of 1e-6 move numbers that bfloat16 would round back"
    from safetensors.torch import load_file
    import torch
    few = TrainConfig(backend='trl', dtype='bfloat16', epochs=2, batch_size=4, save_steps=1, warmup_share=0., lr=1e-6, schedule='constant')
    fit(sums(8), few, student, tmp_path/'out')
    from cgd.loading import load_student
    before = {n.replace('.default', ''): p for n, p in load_student('trl', student, few, 'padded').named_parameters() if 'lora_A' in n}
    after = load_file(tmp_path/'out'/'adapter_model.safetensors')
    moved = [(after[n] != p).float().mean().item() for n, p in before.items()]
    rounded = [(after[n].bfloat16() != p.bfloat16()).float().mean().item() for n, p in before.items()]
    assert before and all(after[n].dtype == torch.float32 for n in before) and min(moved) > .9 and max(rounded) < .1

def test_one_training_after_another(student, tmp_path):
    "In one process the second learns what it learns alone, and what the first held is free"
    import gc, weakref
    from importlib import import_module
    from cgd.trainer import held_gib
    module = import_module('cgd.train')   # the package's own `train` is a function
    seen, make = [], module._trainer
    def watched(model, *rest):
        seen.append(weakref.ref(model))
        return make(model, *rest)
    module._trainer = watched
    try: runs = [fit(sums(8), CFG.model_copy(update=dict(backend='trl', epochs=2, lora_r=r)), student, tmp_path/f'{i}') for i, r in enumerate((8, 4, 8))]
    finally: module._trainer = make
    held_gib()
    assert [ref() for ref in seen] == [None]*3
    assert [r['loss'] for r in read_losses(tmp_path/'0')] == [r['loss'] for r in read_losses(tmp_path/'2')] != [r['loss'] for r in read_losses(tmp_path/'1')]

def test_vllm_is_there_again():
    "Unsloth is imported as if vLLM were missing, in the caller's own process; afterwards vLLM can be found"
    if not find_spec('unsloth'): pytest.skip('Unsloth is not installed')
    code = ("import sys\nfrom importlib.util import find_spec\nfrom cgd.loading import choose_backend\nfrom cgd.recipe import TrainConfig\nbefore = find_spec('vllm')\n"
            "assert choose_backend(TrainConfig(backend='unsloth')) == ('unsloth', '') and 'unsloth' in sys.modules\n"
            "assert 'vllm' not in sys.modules and (find_spec('vllm') is None) == (before is None)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_nan_stops(student, tmp_path):
    with pytest.raises(CgdError, match='lower lr'):
        fit(sums(16), TrainConfig(backend='trl', lr=1e30, batch_size=4, max_grad_norm=1e30, epochs=5, warmup_share=0., save_steps=1), student, tmp_path/'nan')
    assert not (tmp_path/'nan').exists()
    assert list((tmp_path/'nan.checkpoints').glob('.checkpoint-*.made.json'))   # the checkpoint from before is there

def test_best_is_looked_for_where_it_is_saved(student):
    "A validation between two checkpoints could find a best step that is never loaded"
    check_training(CFG.model_copy(update=dict(keep='best', eval_steps=2)), student)
    for steps in (1, 4):
        with pytest.raises(CgdError, match=f'eval_steps={steps} and save_steps=2 differ; leave eval_steps out'):
            check_training(CFG.model_copy(update=dict(keep='best', eval_steps=steps)), student)

def test_empty_view(student, whole):
    "What was trained before stays"
    before = checksum(whole[0])
    with pytest.raises(CgdError, match='no pairs to train on; left out: .*critique cut off'):
        fit(Pairs('cgd', [], {'critique cut off': 3}), TrainConfig(backend='trl'), student, whole[0])
    assert checksum(whole[0]) == before

def test_missing_logger(student, tmp_path):
    missing = [name for name in ('tensorboard', 'wandb', 'trackio') if not find_spec(name)]
    if not missing: pytest.skip('all loggers are installed')
    with pytest.raises(CgdError, match=f'pip install {missing[0]}'): fit(sums(4), TrainConfig(report_to=missing[0]), student, tmp_path/'out')

class Hub(BaseHTTPRequestHandler):
    "As much of the Hub as a push needs: it keeps what it is sent"
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length'] or 0))
        self.server.seen.append((self.path, self.headers.get('authorization'), body))
        here = f"http://{self.headers['host']}/me/tuned"
        if self.path.endswith('/preupload/main'): answer = dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(body)['files']])
        elif self.path.endswith('/commit/main'): answer = dict(success=True, commitOid='0'*40, commitUrl=f'{here}/commit/{"0"*40}')
        else: answer = dict(url=here, id='me/tuned', name='me/tuned')
        self.reply(answer)
    def do_GET(self): self.reply(dict(id='me/tuned', siblings=[]))
    def reply(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200)
        for k, v in {'content-type': 'application/json', 'content-length': str(len(data))}.items(): self.send_header(k, v)
        self.end_headers(); self.wfile.write(data)
    def log_message(self, *args): pass

def test_push_to_hub(student, tmp_path, monkeypatch):
    cfg = TrainConfig(backend='trl', epochs=1, batch_size=4, push_to_hub='me/tuned')
    for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'hf')); monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    with pytest.raises(CgdError, match='push_to_hub=me/tuned: no token; run `hf auth login`'): train(sums(4), cfg, student, tmp_path/'out', progress=False)
    assert not list(tmp_path.glob('out.checkpoints'))          # told at the start
    with ThreadingHTTPServer(('127.0.0.1', 0), Hub) as hub:
        hub.seen = []
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{hub.server_port}'); monkeypatch.setenv('HF_TOKEN', 'hf_secret')
        train(sums(4), cfg, student, tmp_path/'out', progress=False)
        hub.shutdown()
    assert 'create' in hub.seen[0][0] and {token for _, token, _ in hub.seen} == {'Bearer hf_secret'}
    lines = [json.loads(l) for path, _, body in hub.seen if path.endswith('/commit/main') for l in body.splitlines()]
    assert {l['value']['path'] for l in lines if l['key'] == 'file'} == {f.name for f in (tmp_path/'out').iterdir()}   # all, and nothing else
    assert not any(b'hf_secret' in f.read_bytes() for f in tmp_path.rglob('*') if f.is_file())

def test_target_longer_than_context(student, tmp_path):
    long = Pairs('sft', [make_pair('sft', dict(problem='?'), 'one '*3000, 'long')])
    with pytest.raises(CgdError, match='do not fit into max_length=2048'): fit(long, TrainConfig(backend='trl'), student, tmp_path/'long')
    with pytest.raises(CgdError, match='max_length=4096 is more than the 2048 tokens'):
        fit(long, TrainConfig(backend='trl', max_length=4096), student, tmp_path/'long')

def test_adapter_of_another_base(whole, tmp_path):
    with pytest.raises(CgdError, match='trained on another base'): merge_student(tiny_student(tmp_path/'other', seed=1), whole[0], tmp_path/'merged')
    assert not (tmp_path/'merged').exists()

def shares(base, adapter, evaluated):
    "Of the update that an adapter holds: <d_evaluated, d>/<d, d> and the cosine between them, over all matrices that it changes"
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    exact = PeftModel.from_pretrained(start, adapter).merge_and_unload().state_dict()
    now = {k: v.float() for k, v in evaluated.state_dict().items()}
    changed = [(now[k] - before[k], exact[k] - before[k]) for k in before if (exact[k] != before[k]).any()]
    both, wanted, got = (sum((a*b).sum().item() for a, b in pairs) for pairs in (changed, [(d, d) for _, d in changed], [(d, d) for d, _ in changed]))
    return both/wanted, both/(wanted*got)**.5

def slight_adapter(base, folder, size=.002):
    "An adapter that changes each matrix by a share of its size, as the default training does, and says that it was trained in bfloat16"
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from cgd.models import fingerprint
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(r=16, lora_alpha=32, target_modules='all-linear', init_lora_weights=False))
    for layer in (m for m in model.modules() if hasattr(m, 'lora_B')):
        layer.lora_B['default'].weight.data *= size*layer.weight.norm()/layer.get_delta_weight('default').norm()
    model.save_pretrained(folder)
    (folder/'train.json').write_text(json.dumps(dict(base='slice', base_fingerprint=fingerprint(base), dtype='bfloat16')))
    return folder

@pytest.fixture(scope='module')
def real_slice(tmp_path_factory):
    "The embedded student's first two layers, in the bfloat16 that it is stored in"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from cgd.models import find_model
    folder, out = find_model('smollm2'), tmp_path_factory.mktemp('slice')
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, num_hidden_layers=2)
    model.save_pretrained(out); AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return str(out)

@pytest.mark.parametrize('made_by', ['merge', 'full'])
def test_the_update_arrives_in_the_model_that_is_evaluated(real_slice, tmp_path, monkeypatch, made_by):
    "Also where the hardware likes bfloat16: an update of the default run's size is less than a step of it"
    import torch
    from transformers import AutoModelForCausalLM
    from cgd.generate import EngineConfig
    from cgd.engines import HfEngine
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    if made_by == 'merge':
        adapter = slight_adapter(real_slice, tmp_path/'adapter')
        folder = merge_student(real_slice, adapter, tmp_path/'whole')
    else:
        folder = tmp_path/'whole'
        record = fit(sums(4), TrainConfig(backend='trl', tuning='full', dtype='bfloat16', lr=1e-6, epochs=1, batch_size=4, warmup_share=0.), real_slice, folder)
        assert record['dtype'] == 'bfloat16'
    runs_in = getattr(torch, HfEngine(f'hf:{folder}', str(folder), EngineConfig()).dtype)
    evaluated = AutoModelForCausalLM.from_pretrained(folder, dtype=runs_in)
    if made_by == 'merge':
        arrived, cosine = shares(real_slice, adapter, evaluated)
        assert arrived > .999 and cosine > .999
        rounded, cosine = shares(real_slice, adapter, evaluated.bfloat16())   # so the measure can tell
        assert rounded < .95 and cosine < .95
    else:
        before = AutoModelForCausalLM.from_pretrained(real_slice, dtype=torch.float32).state_dict()
        moved = [(now.float() != before[k]).float().mean().item() for k, now in evaluated.state_dict().items() if 'proj' in k]
        assert min(moved) > .9   # in bfloat16, steps of 1e-6 would leave nearly all weights where they were

def test_a_merge_of_before_is_made_again(real_slice, tmp_path):
    "One that was merged in bfloat16, and marked so"
    from cgd.core import content_hash, is_current, mark_current
    from cgd.models import fingerprint
    adapter, out = slight_adapter(real_slice, tmp_path/'adapter'), tmp_path/'whole'
    shutil.copytree(real_slice, out)
    mark_current(out, content_hash(fingerprint(real_slice), fingerprint(str(adapter))))
    merge_student(real_slice, adapter, out)
    assert json.loads((out/'config.json').read_text())['dtype'] == 'float32'

@pytest.mark.parametrize('how', [dict(temperature=.6), dict(top_p=.9, do_sample=False)])
def test_a_student_with_a_temperature_and_no_sampling(student, tmp_path, how):
    "transformers loads its generation config and refuses to save it: neither the training nor the merge may end so"
    mine = str(shutil.copytree(student, tmp_path/'mine'))
    config = tmp_path/'mine'/'generation_config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | how))
    few = TrainConfig(backend='trl', epochs=1, batch_size=4)
    fit(sums(4), few.model_copy(update=dict(tuning='full', lr=1e-4)), mine, tmp_path/'full')
    fit(sums(4), few, mine, tmp_path/'adapter')
    for folder in (tmp_path/'full', merge_student(mine, tmp_path/'adapter', tmp_path/'merged')):
        saved = json.loads(open(os.path.join(folder, 'generation_config.json')).read())
        assert saved['do_sample'] and how.items() - dict(do_sample=False).items() <= saved.items()

def test_a_generation_config_that_cannot_be_saved_is_refused_before_the_training(student, tmp_path):
    mine = str(shutil.copytree(student, tmp_path/'mine'))
    (tmp_path/'mine'/'generation_config.json').write_text(json.dumps(dict(length_penalty=.5)))
    with pytest.raises(CgdError, match='generation_config.json: .*mend that file'): fit(sums(4), TrainConfig(backend='trl'), mine, tmp_path/'out')
