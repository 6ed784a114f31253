"What a notebook cannot show well: training killed in mid-run goes on as if nothing had happened, and both backends learn the same"
import os, random, signal, subprocess, sys, time
from importlib.util import find_spec

import pytest

from cgd.core import CgdError
from cgd.train import TrainConfig, merge, read_losses, train
from cgd.views import Pairs, make_pair

CFG = TrainConfig(epochs=5, batch_size=4, device_batch_size=2, save_steps=2, lr=2e-2, lora_dropout=.1)  # 20 steps; dropout tests the random state

def tiny_student(folder, seed=0):
    "A two-layer llama of random weights with the embedded student's tokenizer"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from cgd.generate import find_model
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

def test_kill_and_resume(student, whole, tmp_path):
    cfg, out = CFG.model_copy(update=dict(backend='trl')), tmp_path/'sft'
    script = tmp_path/'go.py'
    script.write_text('import pickle, sys\nfrom cgd.train import train\n'
                      "if __name__ == '__main__': train(*pickle.load(open(sys.argv[1], 'rb')), progress=False)\n")
    import pickle
    (tmp_path/'job').write_bytes(pickle.dumps((sums(16), cfg, student, out)))
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path/'job')], start_new_session=True)
    checkpoints, until = tmp_path/'sft.checkpoints', time.time() + 120
    while not list(checkpoints.glob('.checkpoint-*.made.json')) and time.time() < until and run.poll() is None: time.sleep(.02)
    assert run.poll() is None and list(checkpoints.glob('.checkpoint-*.made.json')), 'it ended before it could be killed'
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
    losses = {}
    for backend in ('trl', 'unsloth'):
        record = train(sums(16), CFG.model_copy(update=dict(backend=backend, lora_dropout=0.)), student, tmp_path/backend, progress=False)
        assert record['backend'] == backend
        losses[backend] = [r['loss'] for r in read_losses(tmp_path/backend)]
    assert len(losses['trl']) == 20
    assert max(abs(a/b - 1) for a, b in zip(losses['trl'], losses['unsloth'])) < .02

def test_vllm_is_there_again():
    "Unsloth is imported as if vLLM were missing, in the caller's own process; afterwards vLLM can be found"
    if not find_spec('unsloth'): pytest.skip('Unsloth is not installed')
    code = ("import sys\nfrom importlib.util import find_spec\nfrom cgd.train import TrainConfig, choose_backend\nbefore = find_spec('vllm')\n"
            "assert choose_backend(TrainConfig(backend='unsloth')) == ('unsloth', '') and 'unsloth' in sys.modules\n"
            "assert 'vllm' not in sys.modules and (find_spec('vllm') is None) == (before is None)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_nan_stops(student, tmp_path):
    with pytest.raises(CgdError, match='lower lr'):
        train(sums(16), TrainConfig(backend='trl', lr=1e30, batch_size=4, max_grad_norm=1e30, epochs=5, warmup_share=0., save_steps=1), student, tmp_path/'nan', progress=False)
    assert not (tmp_path/'nan').exists()

def test_target_longer_than_context(student, tmp_path):
    long = Pairs('sft', [make_pair('sft', dict(problem='?'), 'one '*3000, 'long')])
    with pytest.raises(CgdError, match='do not fit into max_length=2048'): train(long, TrainConfig(backend='trl'), student, tmp_path/'long', progress=False)
    with pytest.raises(CgdError, match='max_length=4096 is more than the 2048 tokens'):
        train(long, TrainConfig(backend='trl', max_length=4096), student, tmp_path/'long', progress=False)

def test_adapter_of_another_base(whole, tmp_path):
    with pytest.raises(CgdError, match='trained on another base'): merge(tiny_student(tmp_path/'other', seed=1), whole[0], tmp_path/'merged')
    assert not (tmp_path/'merged').exists()
