"Local engines: a batch changes nothing but the speed, and a model's process that dies is replaced"
import dataclasses, json, os, shutil, subprocess, sys
from importlib.util import find_spec

import pytest

from cgd.core import CgdError
from cgd.process import launch
from cgd.store import Request, Store
from cgd.generate import complete
from cgd.models import fingerprint
from cgd.engines import open_engine

CONTEXT = 256   # of the tiny model


def ask(n, words=3, **how) -> list[Request]:
    return [Request(f'p{i}', [{'role': 'user', 'content': ' '.join(['one'] * (words + i))}], **how) for i in range(n)]


def answers(tiny_model, tmp_path, requests, batch_size):
    options = dict(dtype='float32', batch_size=batch_size, in_process=True)
    with open_engine(f'hf:{tiny_model}', **options) as engine, Store(tmp_path/f'{batch_size}.sqlite') as store: return complete(engine, requests, store)


def test_a_batch_changes_no_completion(tiny_model, tmp_path):
    plain = ask(4, max_new_tokens=20)
    full = [*ask(2, 150, max_new_tokens=100), *ask(3, 205, max_new_tokens=100)]   # the last ones nearly fill the context
    words = answers(tiny_model, tmp_path, plain, 1)[1].text
    stops = [dataclasses.replace(r, stop=(words[len(words) // 2:][:3],)) for r in plain]   # ends one row in the middle, and others later or never
    requests = [*plain, *full, *stops]
    alone, together = (answers(tiny_model, tmp_path/name, requests, size) for name, size in dict(one=1, all=16).items())
    assert together == alone
    assert all(c.completion_tokens == min(100, CONTEXT - c.prompt_tokens) for c in alone[4:9] if c.finish_reason == 'length')
    ended = [c for c in alone[9:] if c.finish_reason == 'stop']
    assert 0 < len(ended) < 4 and all(0 < c.completion_tokens < 20 and stops[0].stop[0] not in c.text for c in ended)


def test_a_sampled_completion_has_its_own_seed_whatever_else_is_asked(tiny_model, tmp_path):
    requests = [dataclasses.replace(r, temperature=1., seed=i) for i, r in enumerate(ask(6, max_new_tokens=12))]
    whole, part = (answers(tiny_model, tmp_path/name, some, 4) for name, some in dict(whole=requests, part=requests[3:]).items())
    assert whole[3:] == part and len({c.text for c in whole}) == 6


def test_a_killed_model_is_replaced_on_the_next_call(tiny_model, tmp_path):
    first, second = ask(2, max_new_tokens=4)
    with open_engine(f'hf:{tiny_model}', dtype='float32') as engine, Store(tmp_path/'s.sqlite') as store:
        complete(engine, [first], store)
        engine.process.kill()
        with pytest.raises(CgdError, match='was killed.*memory'): complete(engine, [second], store)
        assert engine.process is None
        assert complete(engine, [second], store)[0].completion_tokens


def test_a_defect_in_the_child_is_no_user_error(tiny_model, tmp_path):
    broken = Request('p', [{'role': 'user', 'content': 'one'}], stop=(1,))   # no string: nothing in cgd makes such a request
    with open_engine(f'hf:{tiny_model}', dtype='float32') as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(RuntimeError, match='what it printed is in'): complete(engine, [broken], store)
        assert 'Traceback' in (tmp_path/'s.sqlite.log').read_text()


def random_adapter(model, folder, seed) -> str:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    torch.manual_seed(seed)
    wearing = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=8, lora_alpha=64, target_modules='all-linear', init_lora_weights=False))
    wearing.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope='module')
def adapters(tiny_model, tmp_path_factory): return [random_adapter(tiny_model, tmp_path_factory.mktemp('adapters')/f'a{seed}', seed) for seed in (1, 2)]


@pytest.mark.parametrize('kind', ['hf', 'vllm'])
def test_adapters_take_turns_on_one_base(tiny_model, adapters, kind, tmp_path):
    if not find_spec(kind.replace('hf', 'transformers')): pytest.skip(f'{kind} is not installed')
    requests, turns = ask(3, max_new_tokens=12), [adapters[0], None, adapters[1], adapters[0]]
    with Store(tmp_path/'s.sqlite') as store, open_engine(f'{kind}:{tiny_model}', dtype='float32', adapters=tuple(adapters)) as engine:
        taken, processes = [], set()
        for adapter in turns:
            engine.set_adapter(adapter)
            taken.append([c.text for c in complete(engine, requests, store)])
            processes.add(engine.process.pid)
        assert len(processes) == 1 and len(store) == 9
        with pytest.raises(CgdError, match='open the engine with it'): engine.set_adapter('elsewhere')
        if kind == 'vllm':   # more tokens than one step reads, and a prompt cut in two would break seeded sampling on a CPU
            many = [dataclasses.replace(r, id=str(i), temperature=1., seed=i + 1, max_new_tokens=2) for i, r in enumerate(ask(60, 60) * 2)]
            assert len({c.key for c in complete(engine, many, store)}) == 120
    assert taken[3] == taken[0] and len({tuple(t) for t in taken}) == 3
    for adapter, texts in ((adapters[1], taken[2]), (None, taken[1])):   # as if it had been the only one; by transformers, which starts sooner
        with Store(tmp_path/'alone.sqlite') as store, open_engine(f'hf:{tiny_model}', dtype='float32', adapter=adapter) as engine:
            assert [c.text for c in complete(engine, requests, store)] == texts


@pytest.mark.skipif(not find_spec('vllm'), reason='vLLM is not installed')
def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(tmp_path):
    with open_engine('vllm:smollm2', kv_cache_gib=10**4) as engine, Store(tmp_path/'store.sqlite') as store:
        with pytest.raises(CgdError, match='vllm:smollm2: kv_cache_gib: .* GiB that are free; set '): complete(engine, ask(1), store)
        assert len(store) == 0


def overwrite(folder, other):
    "What a second training does: other files in the same place"
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


@pytest.mark.parametrize('kind', ['hf', 'vllm'])
def test_an_adapter_made_anew_under_an_open_engine_is_refused(tiny_model, adapters, kind, tmp_path, long):
    "Neither the old one's answers under the new one's name, nor a traceback; a new engine answers with the new one"
    if kind == 'vllm' and not long: pytest.skip('two more loads of vLLM: --long')
    if not find_spec(kind.replace('hf', 'transformers')): pytest.skip(f'{kind} is not installed')
    mine, requests = str(shutil.copytree(adapters[0], tmp_path/'mine')), ask(2, max_new_tokens=12)
    with Store(tmp_path/'s.sqlite') as store:
        with open_engine(f'{kind}:{tiny_model}', dtype='float32', adapters=(mine, adapters[1])) as engine:
            engine.set_adapter(mine); old = complete(engine, requests, store)
            overwrite(mine, adapters[1])
            with pytest.raises(CgdError, match='mine: has changed under an open engine; open the engine anew'): complete(engine, requests, store)
            engine.set_adapter(mine)
            with pytest.raises(CgdError, match='has changed under an open engine'): complete(engine, ask(3), store)
            engine.set_adapter(adapters[1]); other = complete(engine, requests, store)   # what did not change goes on
            assert len(store) == 4
        with open_engine(f'{kind}:{tiny_model}', dtype='float32', adapter=mine) as engine: new = complete(engine, requests, store)
    assert [c.text for c in new] == [c.text for c in other] != [c.text for c in old]


def test_files_that_go_or_change_before_the_model_is_loaded_are_noticed(tiny_model, adapters, tmp_path):
    mine, base = str(shutil.copytree(adapters[0], tmp_path/'mine')), str(shutil.copytree(tiny_model, tmp_path/'base'))
    with Store(tmp_path/'s.sqlite') as store:
        with open_engine(f'hf:{base}', dtype='float32', adapter=mine) as engine:
            shutil.rmtree(mine)
            with pytest.raises(CgdError, match='mine: has changed'): complete(engine, ask(1), store)
        with open_engine(f'hf:{base}', dtype='float32', in_process=True) as engine:
            complete(engine, ask(1), store)
            config = tmp_path/'base'/'generation_config.json'
            config.write_text(config.read_text() + '\n')
            with pytest.raises(CgdError, match='base: has changed'): complete(engine, ask(1), store)
        assert len(store) == 1


def test_a_fingerprint_sees_a_change_within_one_tick_of_the_clock(tiny_model, tmp_path):
    "Same size, same time of change: as two quick writes leave it, or a copy that keeps times"
    folder = shutil.copytree(tiny_model, tmp_path/'model')
    weights = folder/'model.safetensors'
    data, stat, seen = bytearray(weights.read_bytes()), weights.stat(), set()
    for value in range(4):
        data[-1] = value
        weights.write_bytes(data); os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        seen.add(fingerprint(folder))
    assert len(seen) == 4


def with_weights(model, folder, change, **config) -> str:
    "A copy whose weights are what `change` makes of their names and tensors"
    import torch
    from safetensors.torch import load_file, save_file
    folder = shutil.copytree(model, folder)
    torch.manual_seed(1)
    save_file(change(load_file(folder/'model.safetensors')), folder/'model.safetensors', metadata=dict(format='pt'))
    (folder/'config.json').write_text(json.dumps(json.loads((folder/'config.json').read_text()) | config))
    return str(folder)


def other_numbers(weights) -> dict: return {name: w + .5 * w.roll(1, 0).flip(-1) if w.ndim == 2 else 1.5 * w for name, w in weights.items()}


@pytest.fixture(scope='module')
def others(tiny_model, tmp_path_factory) -> tuple[str, str]:
    "Other numbers in the same shape, as a student has them; and a model with a layer less"
    home = tmp_path_factory.mktemp('others')
    return (with_weights(tiny_model, home/'student', other_numbers),
            with_weights(tiny_model, home/'shallow', lambda weights: {k: w for k, w in weights.items() if '.layers.1.' not in k}, num_hidden_layers=1))


def opened_anew(spec, model, requests, path) -> tuple:
    with open_engine(f'{spec.partition(":")[0]}:{model}', dtype='float32') as engine, Store(path) as store:
        return engine.name, engine.identity, [(c.key, c.text) for c in complete(engine, requests, store)]


@pytest.mark.parametrize('kind', ['hf', 'vllm'])
def test_another_model_takes_the_place_of_the_one_before(tiny_model, others, kind, tmp_path, capsys):
    "Same name, identity, keys and texts as an engine opened for it; the process stays unless more than numbers differs"
    if not find_spec(kind.replace('hf', 'transformers')): pytest.skip(f'{kind} is not installed')
    (student, shallow), requests, spec = others, ask(3, max_new_tokens=12), f'{kind}:{tiny_model}'
    with Store(tmp_path/'s.sqlite') as store, open_engine(spec, dtype='float32', kv_cache_gib=1) as engine:
        def taken(model, requests=requests):
            engine.set_model(model)
            return engine.name, engine.identity, [(c.key, c.text) for c in complete(engine, requests, store)]
        first, process = taken(tiny_model), engine.process.pid
        second = taken(student)
        again = taken(tiny_model, ask(3, 4, max_new_tokens=12))   # two of them it has; for the third the first weights come back
        assert engine.process.pid == process and len(store) == 7 and again[:2] == first[:2] and again[2][:2] == first[2][1:]
        assert len({text for _, text in first[2] + second[2]}) == 6
        engine.set_model(shallow)
        assert 'another config.json, weights: a new process' in capsys.readouterr().err if kind == 'vllm' else engine.process.pid == process
        assert (engine.process is None) == (kind == 'vllm') and engine.identity == open_engine(f'{kind}:{shallow}', dtype='float32').identity
        if kind == 'hf': assert len({text for _, text in taken(shallow)[2] + first[2]}) == 6
        engine.set_model(student)   # vLLM: in a new process
        with Store(tmp_path/'new.sqlite') as empty: assert [(c.key, c.text) for c in complete(engine, requests, empty)] == second[2]
    if kind == 'hf': assert opened_anew(spec, student, requests, tmp_path/'anew.sqlite') == second


def test_a_model_changed_under_an_engine_is_refused_until_it_is_set_again(tiny_model, others, tmp_path):
    mine, requests = str(shutil.copytree(tiny_model, tmp_path/'mine')), ask(2, max_new_tokens=12)
    with Store(tmp_path/'s.sqlite') as store, open_engine(f'hf:{tiny_model}', dtype='float32') as engine:
        engine.set_model(mine); old = complete(engine, requests, store)
        overwrite(mine, others[0])
        with pytest.raises(CgdError, match='mine: has changed under an open engine'): complete(engine, requests, store)
        engine.set_model(mine)   # the same path, and what lies there now
        new, process = complete(engine, requests, store), engine.process.pid
        with pytest.raises(CgdError, match='no such model folder'): engine.set_model(str(tmp_path/'none'))
        assert complete(engine, requests, store) == new != old and engine.process.pid == process


def page_faults() -> int:
    "What ten large blocks cost, one after the other, in the process of a model"
    import resource
    from cgd.engines import _lighten
    _lighten()
    import torch, transformers.generation.candidate_generator   # noqa: F401  (would import sklearn)
    assert find_spec('sklearn') is None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): torch.ones(2**23)   # 8,192 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def peaks() -> list[float]:
    "What two equal steps take, one after the other, in the process of a model; GiB"
    from cgd.engines import _lighten
    _lighten()
    import torch
    from cgd.trainer import held_gib, peak_gib
    def step():
        before = held_gib()
        torch.ones(2**27)
        return peak_gib(before)
    return [step(), step()]


def test_memory_that_is_kept_is_not_taken_for_held():
    "Or a training after another one in the same process would seem to need nothing"
    assert launch('test_engines:peaks') == pytest.approx([.5, .5], abs=.1)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="glibc's memory")
def test_a_model_keeps_the_memory_of_a_step_for_the_next():
    "A small block between two large ones may cost another 8,192 pages, now and then (four seen); not one for each"
    assert 8192 <= launch('test_engines:page_faults') <= 81_920 / 2


LEAVING = """
from multiprocessing import get_context
from cgd.engines import EngineConfig, _leave
def work():
    lock = get_context('spawn').Lock()   # vLLM has one
    _leave(EngineConfig())
if __name__ == '__main__':
    child = get_context('spawn').Process(target=work)
    child.start(); child.join()
"""


def test_an_engine_that_ends_leaves_no_semaphore(tmp_path):
    "Python would warn of it at the end of the run"
    (tmp_path/'leaving.py').write_text(LEAVING)
    done = subprocess.run([sys.executable, tmp_path/'leaving.py'], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
