"Each folder of `cgd export` loads in its tool, with the tokens, labels, texts and scores that the run itself has"
import contextlib, io, json, subprocess, sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from cgd.core import CgdError, read_table
from cgd.export import TOOLS, chat, export, typed
from cgd.masks import encode
from cgd.models import chat_ids, load_tokenizer
from cgd.pipeline import run
from cgd.plan import RunConfig
from cgd.views import Pairs


def tool(name, mend=''):
    return pytest.mark.skipif(find_spec(name) is None, reason=f'{name} is not installed{mend}')


@pytest.fixture(scope='module')
def done(tmp_path_factory, tiny_student) -> Path:
    "A whole run of a student of random weights"
    small = dict(max_new_tokens=12)
    cfg = RunConfig.make(dict(
        name='small', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', teacher=['oracle'], n_problems=6,
        methods=['cgd'], benchmarks=['test:3'], decontaminate=False, draft=small, eval=small, views=dict(keep_truncated=True),
        train=dict(epochs=1, batch_size=4, device_batch_size=2, backend='trl')))
    said = run(cfg)
    assert f'vllm serve {cfg.path("models", "cgd-merged")}' in said and f'cgd chat {cfg.path()} cgd' in said
    return cfg.path()


@pytest.fixture(scope='module')
def ours(done) -> list[dict]:
    "What the run's own trainer learns from"
    return encode(load_tokenizer(RunConfig.load(done/'config.yaml').student), Pairs('cgd', read_table(done/'pairs'/'cgd.jsonl'))).rows


def taken(done, to) -> Path:
    "The folder of a tool, made once"
    if not (done/'export'/to).exists(): export(done, to)
    return done/'export'/to


def alike(theirs, ours):
    assert len(theirs) == len(ours) > 0
    for a, b in zip(theirs, ours): assert (list(a['input_ids']), list(a['labels'])) == (b['input_ids'], b['labels'])


def test_trl_reads_its_yaml_and_makes_the_same_tokens_and_labels(done, ours, monkeypatch):
    monkeypatch.chdir(taken(done, 'trl'))
    assert 'trl sft --config sft.yaml' in Path('README.md').read_text()
    from datasets import load_dataset
    from trl import SFTTrainer, get_peft_config
    from trl.scripts.sft import make_parser
    script, args, model, _ = make_parser().parse_args_and_config(['--config', 'sft.yaml'])
    data = load_dataset(script.dataset_name, split='train')
    trainer = SFTTrainer(model=model.model_name_or_path, args=args, train_dataset=data, peft_config=get_peft_config(model))
    alike(trainer.train_dataset, ours)
    recipe = json.loads((done/'models'/'cgd'/'train.json').read_text())['config']
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size*args.gradient_accumulation_steps) \
        == (recipe['lr'], recipe['epochs'], recipe['batch_size'])


def test_transformers_and_datasets_load_the_student_and_its_tables(done, monkeypatch):
    monkeypatch.chdir(taken(done, 'hf'))
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    traces, pairs = (load_dataset('data', part, split='train') for part in ('traces', 'pairs-cgd'))
    assert [r['row_id'] for r in pairs] == [r['row_id'] for r in read_table(done/'pairs'/'cgd.jsonl')]
    assert len(traces) == len(read_table(done/'traces.parquet')) and 'null' not in str(traces.features)
    tokenizer, model = AutoTokenizer.from_pretrained('model'), AutoModelForCausalLM.from_pretrained('model', dtype=torch.float32)
    record = read_table(done/'records'/'cgd.test.parquet')[0]
    asked = RunConfig.load(done/'config.yaml').eval.template.replace('{prompt}', record['prompt'])
    ids = tokenizer.apply_chat_template([dict(role='user', content=asked)], add_generation_prompt=True, return_tensors='pt')
    wrote = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids['input_ids'].shape[1]:]
    assert tokenizer.decode(wrote, skip_special_tokens=True) == record['completion']


@tool('lm_eval')
def test_lm_eval_scores_as_the_run_did(done, monkeypatch):
    monkeypatch.chdir(taken(done, 'lm-eval'))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    manager = TaskManager(include_path='tasks', include_defaults=False)
    found = simple_evaluate(model='hf', model_args='pretrained=model,dtype=float32', tasks=['cgd_test'], task_manager=manager,
                            apply_chat_template=True, bootstrap_iters=0, device='cpu', batch_size=1)
    records = read_table(done/'records'/'cgd.test.parquet')
    assert [s['resps'][0][0] for s in found['samples']['cgd_test']] == [r['completion'] for r in records]
    for grader in ('boxed', 'flexible', 'strict', 'lenient'):
        assert found['results']['cgd_test'][f'{grader},none'] == sum(r[grader] == 'right' for r in records)/len(records)


def test_llamafactory_is_given_what_its_documentation_asks_for(done):
    folder = taken(done, 'llamafactory')
    info = json.loads((folder/'data'/'dataset_info.json').read_text())['cgd']
    rows, recipe = read_table(folder/'data'/info['file_name']), yaml.safe_load((folder/'train.yaml').read_text())
    tags = info['tags']
    assert [t[tags['role_tag']] for t in rows[0][info['columns']['messages']]] == [tags['user_tag'], tags['assistant_tag']]
    assert 'template' not in recipe and (recipe['dataset_dir'], recipe['dataset'], recipe['stage']) == ('data', 'cgd', 'sft')


@tool('llamafactory')
def test_llamafactory_makes_the_same_tokens_and_labels(done, ours, monkeypatch):
    monkeypatch.chdir(taken(done, 'llamafactory'))
    monkeypatch.setenv('DISABLE_VERSION_CHECK', '1')
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    model, data, training, *_ = get_train_args(yaml.safe_load(Path('train.yaml').read_text()))
    words = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(words['tokenizer'], data)
    alike(get_dataset(template, model, data, training, stage='sft', **words)['train_dataset'], ours)


@tool('axolotl')
def test_axolotl_takes_the_config_and_makes_the_same_tokens_and_labels(done, ours, monkeypatch):
    monkeypatch.chdir(taken(done, 'axolotl'))
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from transformers import AutoTokenizer
    values = yaml.safe_load(Path('axolotl.yaml').read_text())
    assert set(values) <= set(AxolotlInputConfig(**values).model_dump(exclude_none=True))
    cfg = DictDefault(values)
    strategy = load(AutoTokenizer.from_pretrained('base'), cfg, cfg.datasets[0])
    alike([strategy.tokenize_prompt(r) for r in read_table('data/train.jsonl')], ours)


def test_axolotl_is_given_conversations_that_end_with_the_answer(done):
    folder = taken(done, 'axolotl')
    values = yaml.safe_load((folder/'axolotl.yaml').read_text())
    data, = values['datasets']
    row = read_table(folder/data['path'])[0]
    assert [t['role'] for t in row[data['field_messages']]] == ['user', 'assistant'] and data['roles_to_train'] == ['assistant']
    assert (values['chat_template'], data['train_on_eos'], values['adapter']) == ('tokenizer_default', 'turn', 'lora')


def test_unsloths_script_is_python_with_the_settings_of_trl(done, long):
    folder, words = taken(done, 'unsloth'), yaml.safe_load((taken(done, 'trl')/'sft.yaml').read_text())
    text = (folder/'train.py').read_text()
    compile(text, 'train.py', 'exec')
    given = eval(text[text.index('dict('):text.index("data = load_dataset")])
    assert given == {k: words[k] for k in given} and given['learning_rate'] == words['learning_rate']
    if not long or not find_spec('unsloth'): return
    script = ("import json, runpy\nfrom cgd.loading import _import_unsloth\n_import_unsloth()\n"   # without vLLM, which may not run here
              "made = runpy.run_path('train.py', run_name='loaded')\n"
              "print(json.dumps([dict(input_ids=list(r['input_ids']), labels=list(r['labels'])) for r in made['trainer'].train_dataset]))")
    said = subprocess.run([sys.executable, '-c', script], cwd=folder, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-2000:]
    student = load_tokenizer(RunConfig.load(done/'config.yaml').student)
    alike(json.loads(said.stdout.splitlines()[-1]), encode(student, Pairs('cgd', read_table(done/'pairs'/'cgd.jsonl'))).rows)


@pytest.fixture(scope='module')
def gguf_file(done) -> Path:
    return taken(done, 'gguf')/'cgd.gguf'


def test_a_gguf_file_holds_all_weights_the_vocabulary_and_the_chat_template(done, gguf_file):
    from gguf import GGUFReader
    from cgd.models import weight_shapes
    file, tokenizer = GGUFReader(gguf_file), load_tokenizer(str(done/'models'/'cgd-merged'))
    assert len(file.tensors) == len(weight_shapes(done/'models'/'cgd-merged'))
    assert file.get_field('tokenizer.chat_template').contents() == tokenizer.chat_template
    assert file.get_field('tokenizer.ggml.tokens').contents() == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert file.get_field('tokenizer.ggml.eos_token_id').contents() == tokenizer.eos_token_id


@tool('llama_cpp', ' (llama-cpp-python)')
def test_llama_cpp_reads_the_same_tokens_and_writes_the_same_text(done, gguf_file):
    from llama_cpp import Llama
    model, tokenizer = Llama(str(gguf_file), n_ctx=512, verbose=False), load_tokenizer(str(done/'models'/'cgd-merged'))
    turns = [dict(role='user', content="12,345.678 kg (a+b)\n\n\tété 日本 it's")]
    ids = chat_ids(tokenizer, turns)
    assert model.tokenize(tokenizer.decode(ids).encode(), add_bos=False, special=True) == ids
    said = model.create_chat_completion(turns, temperature=0., max_tokens=8)['choices'][0]['message']['content']
    assert said == written(done, ids, 8)


def written(done, ids, n) -> str:
    "What transformers makes of the same tokens"
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(done/'models'/'cgd-merged', dtype=torch.float32)
    tokenizer = load_tokenizer(str(done/'models'/'cgd-merged'))
    return tokenizer.decode(model.generate(torch.tensor([ids]), max_new_tokens=n, do_sample=False)[0, len(ids):], skip_special_tokens=True)


def asked(done, lines, n=12, method='cgd') -> list[str]:
    with contextlib.redirect_stdout(out := io.StringIO()): chat(done, method, n, lines=lines)
    return out.getvalue().splitlines()


def test_chat_answers_each_line_by_one(done, capsys):
    said = asked(done, ['What is 2 + 2?', '/reset', '', 'What is 2 + 2?', '/help', 'And 3?', '/quit', 'never asked'])
    assert len(said) == 3 and said[0] == said[1]   # /reset forgets; /quit ends
    assert '/help: no such command' in capsys.readouterr().err
    tokenizer = load_tokenizer(str(done/'models'/'cgd-merged'))
    assert said[0] == written(done, chat_ids(tokenizer, [dict(role='user', content='What is 2 + 2?')]), 12).strip().replace('\n', '\\n')


def test_what_cannot_be_taken_is_one_clear_error(done, tmp_path):
    with pytest.raises(CgdError, match='to=onnx: no such tool; known: hf, trl'): export(done, 'onnx')
    with pytest.raises(CgdError, match='method=cft: no student of that method .* it has cgd'): export(done, 'hf', 'cft')
    with pytest.raises(CgdError, match='no run here'): export(tmp_path, 'hf')
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('!')
    with pytest.raises(CgdError, match='was not made by cgd'): export(done, 'trl', out=tmp_path/'mine')
    assert (tmp_path/'mine'/'thesis.txt').read_text() == '!' and not list(tmp_path.glob('.mine*'))
    (tmp_path/'other').mkdir()
    for _ in range(2): assert str(tmp_path/'other') in export(done, 'hf', out=tmp_path/'other')   # empty, then made before


def test_the_command_line_knows_every_tool():
    from cgd.cli import _TOOLS
    assert set(_TOOLS) == set(TOOLS)
