"What a completion's key depends on, field by field: each change is a miss, no change is a hit"
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cgd.core import write_atomic
from cgd.store import Request, Store, request_key
from cgd.generate import EngineConfig, complete
from cgd.engines import open_engine, vllm_fault
from cgd.plan import _OF_ENGINE

BASE = Request('p', [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'What is 1 + 1?'}], temperature=.5, seed=3)
OPTIONS = dict(dtype='float32', max_model_len=128, batch_size=1)


def identity(folder, kind='hf', **options) -> dict:
    return open_engine(f'{kind}:{folder}', **{**OPTIONS, **options}).identity


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path/'elsewhere'/'model'))


REQUEST_CHANGES = dict(messages=[{'role': 'system', 'content': 'Be long.'}, BASE.messages[1]], sample=1, temperature=.6, top_p=.9,
                       max_new_tokens=255, stop=('\n',), seed=4)


@pytest.mark.parametrize('field', REQUEST_CHANGES)
def test_each_field_of_a_request_counts(tiny_model, field):
    engine = identity(tiny_model)
    assert request_key(engine, dataclasses.replace(BASE, **{field: REQUEST_CHANGES[field]})) != request_key(engine, BASE)


def test_every_field_of_a_request_is_tested():
    assert {f.name for f in dataclasses.fields(Request)} == {'id', *REQUEST_CHANGES}


def test_a_missing_system_turn_and_another_role_count(tiny_model):
    engine = identity(tiny_model)
    others = [BASE.messages[1:], [{**BASE.messages[0], 'role': 'user'}, BASE.messages[1]], [*BASE.messages, {'role': 'assistant', 'content': ''}]]
    assert len({request_key(engine, dataclasses.replace(BASE, messages=m)) for m in [BASE.messages, *others]}) == 4


def adapter(folder, values) -> str:
    write_atomic(folder/'adapter_config.json', json.dumps(dict(r=8)))
    write_atomic(folder/'adapter_model.safetensors', values)
    return str(folder)


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_each_setting_of_an_engine_counts_or_is_how_it_is_run():
    how = {'adapters', 'batch_size', 'tensor_parallel_size', 'pipeline_parallel_size', 'gpu_memory_utilization', 'kv_cache_gib', 'speculate', 'enforce_eager', 'concurrency',
           'max_retries', 'max_wait', 'timeout', 'in_process', 'live'}
    assert how | {*_OF_ENGINE} == {*EngineConfig.model_fields} and not how & {*_OF_ENGINE}


@pytest.mark.skipif(bool(vllm_fault()), reason='no vLLM here')
def test_quantization_counts(tiny_model):
    made = [open_engine(f'vllm:{tiny_model}', **how) for how in ({}, dict(quantization='fp8'))]
    assert request_key(made[0].identity, BASE) != request_key(made[1].identity, BASE)


def test_each_part_of_an_engine_counts(tiny_model, copy, tmp_path):
    base = identity(tiny_model)
    assert identity(copy) == base                                                 # another path, the same model: a hit
    assert identity(tiny_model, batch_size=8, in_process=True, kv_cache_gib=1) == base  # how it is run, not what it says
    seen = [base, identity(tiny_model, dtype='bfloat16'), identity(tiny_model, max_model_len=64), identity(tiny_model, adapter=adapter(tmp_path/'a', b'1')), identity(tiny_model, adapter=adapter(tmp_path/'b', b'2'))]
    template = copy/'chat_template.jinja'
    template.write_text(template.read_text().replace('SmolLM', 'SomeLM'))
    seen.append(identity(copy))
    flip(copy/'model.safetensors')
    seen.append(identity(copy))
    write_atomic(copy/'generation_config.json', json.dumps(dict(eos_token_id=7)))
    seen.append(identity(copy))
    assert len({request_key(i, BASE) for i in seen}) == len(seen)


def test_the_kind_of_engine_and_its_address_count(tiny_model):
    endpoint = [open_engine(f'openai:{m}@http://localhost:{p}/v1').identity for m in 'ab' for p in (1, 2)]
    assert len({request_key(i, BASE) for i in [*endpoint, identity(tiny_model)]}) == 5


def test_a_hit_asks_no_engine_and_a_miss_does(tiny_model, tmp_path):
    with Store(tmp_path/'s.sqlite') as store:
        with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as engine: first = complete(engine, [BASE], store)
        with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as engine:
            assert complete(engine, [dataclasses.replace(BASE, id='another')], store) == first
            assert engine.load_seconds is None                                     # nothing was loaded
            complete(engine, [dataclasses.replace(BASE, sample=1)], store)
            assert engine.load_seconds is not None
        assert len(store) == 2


@pytest.mark.parametrize('kind', ['hf', 'vllm'])
def test_a_model_that_is_set_has_the_keys_of_one_that_is_opened(tiny_model, copy, kind):
    "Whatever else is new with it: a chat template, what ends a turn, and the number format of a student tuned here"
    if kind == 'vllm' and vllm_fault(): pytest.skip(vllm_fault())
    flip(copy/'model.safetensors')
    template = copy/'chat_template.jinja'
    template.write_text(template.read_text().replace('SmolLM', 'SomeLM'))
    write_atomic(copy/'generation_config.json', json.dumps(dict(eos_token_id=7)))
    write_atomic(copy/'merged.json', '{}')
    for options in (dict(), dict(dtype='auto'), dict(max_model_len=None), dict(in_process=True)):
        engine, anew = (open_engine(f'{kind}:{model}', **OPTIONS | options) for model in (tiny_model, copy))
        engine.set_model(str(copy))
        assert (engine.identity, engine.name, engine.spec, engine.folder, engine.context) == (anew.identity, anew.name, anew.spec, anew.folder, anew.context)
        assert request_key(engine.identity, BASE) == request_key(anew.identity, BASE)
        engine.set_model(tiny_model)
        assert engine.identity == open_engine(f'{kind}:{tiny_model}', **OPTIONS | options).identity
