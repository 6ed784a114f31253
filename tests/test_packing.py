"Rows laid end to end learn what filled-up rows learn, do not see each other, and go on after a kill and a full disk; and the best checkpoint is the best"
import os, pickle, random, signal, subprocess, sys, time
from pathlib import Path

import pytest

from cgd.batches import pack_rows
from cgd.core import CgdError
from cgd.recipe import TrainConfig
from cgd.train import _dividing, fit
from cgd.trainer import read_losses
from cgd.views import Pairs, make_pair
from cgd.masks import encode
from test_train import sums, tiny_student

CFG = TrainConfig(backend='trl', epochs=2, batch_size=4, device_batch_size=2, batching='padded', order='given', lr=2e-2, dtype='float32')


def others(n):
    "Problems that `sums` does not have"
    return Pairs('sft', [make_pair('sft', dict(problem=f'What is {i} times {i + 1}?'), f'{i*(i + 1)}.', f'v{i}') for i in range(n)])


@pytest.fixture(scope='module')
def student(tmp_path_factory): return tiny_student(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def losses(student, tmp_path_factory):
    "Train and give the losses; once for each setting"
    folder, done = tmp_path_factory.mktemp('runs'), {}

    def of(**changes):
        name = '-'.join(f'{k}={v}' for k, v in changes.items())
        if name not in done:
            record = fit(sums(16), CFG.model_copy(update=changes), student, folder/name)
            done[name] = record, read_losses(folder/name)
        return done[name]
    return of


def agree(a, b): assert [x['loss'] for x in a] == pytest.approx([x['loss'] for x in b], rel=1e-4)


def test_division_of_the_batch_changes_nothing(losses):
    "4 rows of unequal length as 4 x 1, 2 x 2 and 1 x 4: the loss of an update is over its target tokens, however they come"
    whole = losses(device_batch_size=4)[1]
    assert len(whole) == 8
    for size in (1, 2): agree(losses(device_batch_size=size)[1], whole)
    agree(losses(device_batch_size=1, batching='padding_free')[1], whole)


def test_padding_free_learns_the_same(losses):
    record, ours = losses(batching='padding_free')
    assert record['batching'] == 'padding_free'
    agree(ours, losses(device_batch_size=4)[1])
    assert [r['tokens'] for r in ours] == [r['tokens'] for r in losses(device_batch_size=4)[1]]   # no padding among them


def test_packed_learns_the_same(losses):
    "One pack of all rows is one full batch"
    settings = dict(batch_size=16, device_batch_size=16, order='random')
    record, ours = losses(batching='packed', **settings)
    agree(ours, losses(**settings)[1])
    assert record['tokens'] == losses(**settings)[0]['tokens'] and record['steps'] == 2
    record, _ = losses(batching='packed', order='random')        # several packs: every row twice in two epochs, about as many updates
    assert record['tokens'] == losses(device_batch_size=4)[0]['tokens'] and 8 <= record['steps'] <= 12


def test_packs_of_any_length_make_an_update_of_as_many_pairs():
    "Packs are as long as the longest pair, and then hold more pairs than device_batch_size says"
    draw = random.Random(0)
    rows = [dict(input_ids=[0]*n, labels=[0]*n) for n in [draw.randint(80, 200) for _ in range(240)] + [1200]*8]
    for size in (8, 4, 2, 1):
        cfg = CFG.model_copy(update=dict(batch_size=16, device_batch_size=size, batching='packed', order='random'))
        packs = len(pack_rows(rows, cfg, 'packed'))
        packs_an_update = _dividing(cfg, 'packed', packs, len(rows))['gradient_accumulation_steps']
        assert .8 < packs_an_update*len(rows)/packs/16 < 1.25


def gradients(student, collate):
    "Of the second document's loss with respect to the embeddings of the first and of itself"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    rows = encode(AutoTokenizer.from_pretrained(student), sums(2)).rows
    first = len(rows[0]['input_ids'])
    rows[0] = rows[0] | dict(labels=[-100]*first)
    batch = collate([r | dict(seq_lengths=[len(r['input_ids'])]) for r in rows])
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).train()
    embedded = model.get_input_embeddings()(batch.pop('input_ids')).detach().requires_grad_()
    model(inputs_embeds=embedded, use_cache=False, **batch).loss.backward()
    return embedded.grad[0, :first].abs().max().item(), embedded.grad[0, first:].abs().max().item()


def test_no_gradient_across_documents(student):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
    end_to_end = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    across, within = gradients(student, end_to_end)
    assert across == 0 and within > 0
    across, _ = gradients(student, lambda rows: {k: v for k, v in end_to_end(rows).items() if k != 'position_ids'})   # as wrapped packing does
    assert across > 0


def test_a_model_that_ignores_positions_is_refused(student, tmp_path):
    "BLOOM has no position ids, so its attention does not stop between documents"
    import torch
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(student)
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2, initializer_range=.5)).save_pretrained(tmp_path/'bloom')
    tokenizer.save_pretrained(tmp_path/'bloom')
    for batching in ('padding_free', 'packed'):
        with pytest.raises(CgdError, match=f'batching={batching}.*pairs see those before them.*take batching=padded'):
            fit(sums(4), CFG.model_copy(update=dict(batching=batching, order='random')), str(tmp_path/'bloom'), tmp_path/'out')
    fit(sums(4), CFG.model_copy(update=dict(batching='padded')), str(tmp_path/'bloom'), tmp_path/'out')


RUN = CFG.model_copy(update=dict(batching='packed', order='random', epochs=5, save_steps=2, keep='best', lora_dropout=.1))


@pytest.fixture(scope='module')
def undisturbed(student, tmp_path_factory):
    out = tmp_path_factory.mktemp('undisturbed')/'sft'
    return out, fit(sums(16), RUN, student, out, validation=others(3))


def test_kill_full_disk_and_resume(student, undisturbed, tmp_path):
    out, checkpoints, script = tmp_path/'sft', tmp_path/'sft.checkpoints', tmp_path/'go.py'
    script.write_text('import pickle, sys\nfrom cgd.train import train\n'
                      "if __name__ == '__main__':\n    *job, held_out = pickle.load(open(sys.argv[1], 'rb'))\n    train(*job, progress=False, validation=held_out)\n")
    (tmp_path/'job').write_bytes(pickle.dumps((sums(16), RUN, student, out, others(3))))
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path/'job')], start_new_session=True)
    until = time.time() + 120
    while not list(checkpoints.glob('.checkpoint-*.made.json')) and time.time() < until and run.poll() is None: time.sleep(.02)
    assert run.poll() is None and list(checkpoints.glob('.checkpoint-*.made.json')), 'it ended before it could be killed'
    os.killpg(run.pid, signal.SIGKILL); run.wait()
    assert not out.exists()
    reached = max(int(p.name.split('-')[1]) for p in checkpoints.glob('checkpoint-*'))
    if Path('/dev/full').exists():   # the next checkpoint's optimizer state meets a disk without room
        for step in (reached + 2, reached + 4):
            (checkpoints/f'checkpoint-{step}').mkdir()
            (checkpoints/f'checkpoint-{step}'/'optimizer.pt').symlink_to('/dev/full')
        good = {p.name for p in checkpoints.glob('.checkpoint-*.made.json')}
        with pytest.raises(CgdError, match='no space left on the disk'): fit(sums(16), RUN, student, out, validation=others(3))
        assert good <= {p.name for p in checkpoints.glob('.checkpoint-*.made.json')} and not out.exists()
        for p in checkpoints.glob('checkpoint-*/optimizer.pt'):
            if p.is_symlink(): p.unlink()
    record = fit(sums(16), RUN, student, out, validation=others(3))
    whole, known = undisturbed
    for held in (False, True):
        same, ours = read_losses(whole, held), read_losses(out, held)
        assert [r['step'] for r in ours] == [r['step'] for r in same] and [r.get('tokens') for r in ours] == [r.get('tokens') for r in same]
        assert [r['loss'] for r in ours] == pytest.approx([r['loss'] for r in same], rel=1e-5)   # the same rows in the same order
    assert record['validation']['step'] == known['validation']['step']
    import torch
    from safetensors.torch import load_file
    ours, same = (load_file(folder/'adapter_model.safetensors') for folder in (out, whole))
    for name, w in same.items(): torch.testing.assert_close(ours[name], w, rtol=1e-5, atol=1e-7)
    assert not checkpoints.exists()


def test_the_best_checkpoint_is_kept(student, undisturbed):
    "What was saved has the lowest validation loss of all looks, computed here anew"
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    out, record = undisturbed
    looks = {r['step']: r['loss'] for r in read_losses(out, validation=True)}
    assert list(looks)[:-1] == list(range(2, record['steps'], 2))[:len(looks) - 1] and list(looks)[-1] == record['steps']
    assert record['validation'] == dict(pairs=3, step=min(looks, key=looks.get), loss=min(looks.values()))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32), out).eval()
    rows = encode(AutoTokenizer.from_pretrained(student), others(3)).rows
    with torch.no_grad(): each = [model(**{k: torch.tensor([r[k]]) for k in ('input_ids', 'labels')}).loss.item() for r in rows]
    assert sum(each)/3 == pytest.approx(record['validation']['loss'], rel=1e-4)


def test_validation_is_of_other_problems(student, tmp_path):
    with pytest.raises(CgdError, match='2 of its 2 problems are trained on'): fit(sums(4), CFG, student, tmp_path/'out', validation=sums(2))
