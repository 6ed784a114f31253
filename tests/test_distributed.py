"Two processes learn what one learns, go on after a kill and leave no orphans; FSDP2 really shards, and what it saves is one plain model"
import json, os, pickle, signal, subprocess, sys, time
from pathlib import Path

import pytest

from cgd.core import CgdError
from cgd.recipe import TrainConfig, choose_parallel, devices
from cgd.loading import _check_devices
from cgd.train import fit, train
from cgd.merge import merge_student
from cgd.trainer import read_losses
from test_train import sums, tiny_student

CFG = TrainConfig(backend='trl', epochs=2, batch_size=4, device_batch_size=2, save_steps=2, lr=2e-2, dtype='float32')   # 8 steps, rows of like length together
SAME = 1e-4   # relative: sums of float32 gradients in another order


@pytest.fixture(scope='module')
def student(tmp_path_factory): return tiny_student(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def alone(student, tmp_path_factory):
    "What one process learns, and its losses"
    out = tmp_path_factory.mktemp('alone')/'sft'
    return out, fit(sums(16), CFG, student, out)


def agree(ours, alone):
    assert [r['step'] for r in ours] == [r['step'] for r in alone] and [r['tokens'] for r in ours] == [r['tokens'] for r in alone]   # the same rows in each step
    assert [r['loss'] for r in ours] == pytest.approx([r['loss'] for r in alone], rel=SAME)


def same_weights(a, b, file='adapter_model.safetensors'):
    import torch
    from safetensors.torch import load_file
    ours, theirs = load_file(Path(a)/file), load_file(Path(b)/file)
    assert ours.keys() == theirs.keys()
    for name, w in theirs.items(): torch.testing.assert_close(ours[name], w, rtol=1e-2, atol=1e-3)   # Adam divides by gradients that are near 0, too


def of_session(leader):
    "Processes that a killed leader may have left behind"
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try: fields = stat.read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError): continue   # it has just ended
        if int(fields[3]) == leader and fields[0] != 'Z': found.append(stat.parent.name)
    return found


GO = "import pickle, sys\nfrom cgd.train import train\nif __name__ == '__main__': train(*pickle.load(open(sys.argv[1], 'rb')), progress=False)\n"


def test_two_processes_equal_one_and_resume(student, alone, tmp_path):
    out, checkpoints = tmp_path/'sft', tmp_path/'sft.checkpoints'
    two = CFG.model_copy(update=dict(processes=2, device_batch_size=1))
    (tmp_path/'go.py').write_text(GO); (tmp_path/'job').write_bytes(pickle.dumps((sums(16), two, student, out)))
    run = subprocess.Popen([sys.executable, tmp_path/'go.py', tmp_path/'job'], start_new_session=True)
    until = time.time() + 240
    while not (checkpoints/'.checkpoint-6.made.json').exists() and time.time() < until and run.poll() is None: time.sleep(.01)   # in the second epoch
    assert run.poll() is None, 'it ended before it could be killed'
    os.kill(run.pid, signal.SIGKILL); run.wait()   # only what the user started
    if Path('/proc/self/stat').exists():
        until = time.time() + 20
        while of_session(run.pid) and time.time() < until: time.sleep(.1)
        assert not of_session(run.pid)
    assert not out.exists()
    record = train(sums(16), two, student, out, progress=False)
    assert (record['processes'], record['parallel'], record['steps']) == (2, 'ddp', 8)
    agree(read_losses(out), read_losses(alone[0]))
    same_weights(out, alone[0])
    assert record['tokens'] == alone[1]['tokens'] and not checkpoints.exists()
    assert fit(sums(16), two.model_copy(update=dict(processes=1)), student, out) == record   # it is the result of this recipe, however many made it


LOOK = '''import json, os, sys, pickle
from importlib import import_module
t = import_module('cgd.train')   # the package's own `train` is a function
train, seen = t.run_trainer, []
def look(trainer, *rest):
    train(trainer, *rest)
    seen.append([(type(p).__name__, p.numel(), p.to_local().numel()) for p in trainer.model.parameters()])
t.run_trainer = look
for pairs, cfg, student, out in pickle.load(open(sys.argv[1], 'rb')): t.fit(pairs, cfg, student, out)
open(f"{sys.argv[1]}.{os.environ['RANK']}", 'w').write(json.dumps(seen))
'''


def test_fsdp2_shards_and_saves_one_checkpoint(student, tmp_path, long):
    if not long: pytest.skip('several processes, for GPUs: --long')
    import torch
    from transformers import AutoModelForCausalLM
    short = CFG.model_copy(update=dict(epochs=1, save_steps=1, parallel='fsdp2', device_batch_size=1, lr=2e-3))
    jobs = [(sums(8), short.model_copy(update=dict(tuning=m)), student, tmp_path/m) for m in ('lora', 'full')]   # two steps each
    (tmp_path/'look.py').write_text(LOOK); (tmp_path/'job').write_bytes(pickle.dumps(jobs))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr', 'localhost', '--nproc-per-node', '2', tmp_path/'look.py', tmp_path/'job'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    looks = [json.loads((tmp_path/f'job.{rank}').read_text()) for rank in (0, 1)]
    for first, second in zip(*looks):
        assert first and all(kind == 'DTensor' for kind, *_ in first)
        for (_, whole, here), (_, _, there) in zip(first, second): assert here + there == whole and here < whole
    for pairs, cfg, _, out in jobs:
        one = fit(pairs, cfg.model_copy(update=dict(parallel='auto')), student, tmp_path/f'one-{cfg.tuning}')
        record = json.loads((out/'train.json').read_text())
        assert (record['parallel'], record['steps'], one['parallel']) == ('fsdp2', 2, 'none')
        agree(read_losses(out), read_losses(tmp_path/f'one-{cfg.tuning}'))
    same_weights(tmp_path/'full', tmp_path/'one-full', 'model.safetensors')
    same_weights(tmp_path/'lora', tmp_path/'one-lora')
    models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (tmp_path/'full', merge_student(student, tmp_path/'lora', tmp_path/'merged'))]
    assert all(type(m).__name__ == 'LlamaForCausalLM' and m.config.architectures == ['LlamaForCausalLM'] for m in models)
    assert len({f.name for f in (tmp_path/'full').glob('*.safetensors')}) == 1


def test_what_a_process_says_is_said_once(student, tmp_path, long):
    "Not a loss that is no number in each of them, nor a traceback"
    if not long: pytest.skip('two more processes: --long')
    with pytest.raises(CgdError, match=r'^step 2: loss is nan; lower lr=1e\+30'):
        train(sums(8), CFG.model_copy(update=dict(processes=2, device_batch_size=1, lr=1e30, max_grad_norm=1e30, warmup_share=0., epochs=4)), student, tmp_path/'nan', progress=False)


def test_settings_of_a_launcher(monkeypatch, student, tmp_path):
    two = TrainConfig(processes=2)
    with pytest.raises(CgdError, match='fit trains in the process that calls it; call train'): fit(sums(4), two, student, tmp_path/'out')
    monkeypatch.setenv('WORLD_SIZE', '4')
    assert devices(TrainConfig()) == 4 and choose_parallel(TrainConfig()) == 'ddp'
    with pytest.raises(CgdError, match='processes=2, but the launcher started 4'): devices(two)
    monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true'); monkeypatch.setenv('FSDP_VERSION', '2')
    assert choose_parallel(TrainConfig()) == 'fsdp2'
    with pytest.raises(CgdError, match='accelerate was told to use FSDP;'): choose_parallel(TrainConfig(parallel='ddp'))
    monkeypatch.setenv('FSDP_VERSION', '1')
    with pytest.raises(CgdError, match='fsdp_version: 2'): _check_devices(TrainConfig())
