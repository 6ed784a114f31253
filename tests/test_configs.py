"Every shipped config can be run: it loads, its names exist, its batches divide, and the memory it states is what comes out of the formula"
import json
import re
from pathlib import Path

import pytest
import yaml

from cgd.benchmarks import BENCHMARKS
from cgd.core import shipped
from cgd.data import SETS
from cgd.plan import CHECKS, Plan, RunConfig
from cgd.models import SHAPES, Shape
from cgd.recipe import accumulation
from cgd.fits import expected_memory

FOLDER = shipped('configs')
FILES = sorted(str(f.relative_to(FOLDER)) for f in FOLDER.rglob('*.yaml') if f.parent.name != 'studies')   # those are sweeps: test_sweep.py
PAPER, GPU = ([f for f in FILES if f.startswith(folder)] for folder in ('paper/', 'gpu/'))

def load(file): return RunConfig.load(FOLDER/file)
def teachers(cfg): return cfg.teacher

def test_all_are_here(): assert len(PAPER) == 3 and len(GPU) == 3 and {'cpu.yaml', 'cpu_full.yaml'} < set(FILES)

@pytest.mark.parametrize('file', FILES)
def test_runs_as_far_as_names_go(file):
    cfg = load(file)
    plan = Plan(cfg)
    for check in CHECKS[:4]: check(plan)   # the others load sets, teachers or a tokenizer
    assert cfg.name == file.rpartition('/')[2].removesuffix('.yaml')
    device, times = accumulation(cfg.train)
    assert device*times == cfg.train.batch_size and device == cfg.train.device_batch_size
    sets = [plan.read_set(spec) for spec in filter(None, (cfg.problems, *cfg.benchmarks, cfg.validation))]
    for spec in (s.source for s in sets): assert spec in SETS or spec in BENCHMARKS or re.fullmatch(r'hub:[\w.-]+/[\w.-]+(:\w*){0,2}(\[\d+:\d+\])?', spec)
    assert all(t in ('oracle', 'expert') or re.fullmatch(r'vllm:[\w.-]+/[\w.-]+', t) for t in teachers(cfg))

def test_the_guides_own_file():
    cells = json.loads((Path(__file__).parents[1]/'nbs/guides/your_own.ipynb').read_text())['cells']
    text, = re.findall('```yaml\n(.*?)```', '\n'.join(''.join(c['source']) for c in cells), re.S)
    plan = Plan(cfg := RunConfig.make(yaml.safe_load(text)))
    for check in CHECKS[:4]: check(plan)
    assert (cfg.n_problems, cfg.draft.max_new_tokens, cfg.eval.max_new_tokens) == (None, 1024, 2048)

PUBLISHED = {   # file -> student, teacher, tokens of an answer in the tests
    'paper/llama-3.1-8b.yaml': ('meta-llama/Llama-3.1-8B-Instruct', 'vllm:meta-llama/Llama-3.3-70B-Instruct', 8192),
    'paper/qwen2.5-math-7b.yaml': ('Qwen/Qwen2.5-Math-7B', 'vllm:simplescaling/s1.1-32B', 16384),
    'paper/s1.1-3b.yaml': ('simplescaling/s1.1-3B', 'vllm:simplescaling/s1.1-32B', 16384)}
RECIPE = dict(tuning='full', batching='packed', batch_size=64, epochs=1, lr=1e-6, dtype='bfloat16')

@pytest.mark.parametrize('file', PAPER)
def test_paper_recipe(file):
    cfg = load(file)
    assert (cfg.student, *teachers(cfg), cfg.eval.max_new_tokens) == PUBLISHED[file]
    assert (cfg.problems, cfg.n_problems) == ('hub:TIGER-Lab/WebInstructSub', 100_000)
    assert {k: getattr(cfg.train, k) for k in RECIPE} == RECIPE
    assert cfg.draft.max_new_tokens == cfg.teach.max_new_tokens == 16384
    assert cfg.draft.temperature == cfg.teach.temperature == cfg.eval.temperature == 0 and cfg.draft.n == 1
    assert cfg.train.keep == 'best' and cfg.validation not in cfg.benchmarks   # the paper's checkpoint is the best on a set that it reports
    assert cfg.engine.dtype == cfg.teacher_engine.dtype == 'bfloat16' and cfg.teacher_engine.max_model_len == 32768
    assert not cfg.views.only_right and not cfg.views.verdict_agrees and cfg.views.right_share is None   # nothing is filtered by content

@pytest.mark.parametrize('file', PAPER)
def test_what_is_ours_says_so(file):
    "In the section `train`, a line is marked as ours if and only if its value was not published"
    section = re.search(r'^train:\n((?:  .*\n)+)', (FOLDER/file).read_text(), re.M)[1]
    marked = {key: '# ours' in rest for key, rest in re.findall(r'^  (\w+):(.*)$', section, re.M)}
    assert marked.keys() == yaml.safe_load((FOLDER/file).read_text())['train'].keys()
    assert {k for k, ours in marked.items() if not ours} == RECIPE.keys()

STUDENTS = {'meta-llama/Llama-3.1-8B-Instruct': 'llama-3.1-8b', 'Qwen/Qwen2.5-Math-7B': 'qwen2.5-math-7b', 'Qwen/Qwen2.5-7B-Instruct': 'qwen2.5-math-7b',
            'simplescaling/s1.1-3B': 's1.1-3b', 'Qwen/Qwen2.5-1.5B-Instruct': 'qwen2.5-1.5b'}   # which of `SHAPES` it has
TEACHERS = {'Qwen/Qwen2.5-7B-Instruct-AWQ': SHAPES['qwen2.5-math-7b'], 'Qwen/Qwen2.5-14B-Instruct-AWQ': Shape(5120, 48, 13824, 40, 8, 128, 152064, False, True),
            'simplescaling/s1.1-32B': Shape(5120, 64, 27648, 40, 8, 128, 152064, False, True), 'meta-llama/Llama-3.3-70B-Instruct': Shape(8192, 80, 28672, 64, 8, 128, 128256, False)}
CARDS = {'gpu/colab_t4.yaml': 15., 'gpu/24gb.yaml': 22., 'gpu/80gb.yaml': 79., 'paper/s1.1-3b.yaml': 79.}   # GiB that a program finds on such a card

def weights_gib(model):
    "Of a teacher: 16 bits a weight; AWQ has 4 for the blocks' matrices, and 20 for each 128 of them"
    matrices, others = TEACHERS[model].counts()
    return ((4 + 20/128)/8*matrices + 2*others if model.endswith('-AWQ') else 2*(matrices + others))/2**30

@pytest.mark.parametrize('file', PAPER + GPU)
def test_stated_memory(file):
    cfg, comment = load(file), re.sub(r'\n# ', ' ', (FOLDER/file).read_text().partition('\nname:')[0])
    expected = expected_memory(SHAPES[STUDENTS[cfg.student]], cfg.train)
    stated = re.search(r'training ([\d.]+) \((\w+ [\d.]+(?:, \w+ [\d.]+)*)\)', comment)
    assert dict(part.split() for part in f'total {stated[1]}, {stated[2]}'.split(', ')) == {k: f'{v:.1f}' for k, v in expected.items()}
    weights = weights_gib(teachers(cfg)[0].removeprefix('vllm:'))
    assert re.search(r"teacher's weights take ([\d.]+)", comment)[1].rstrip('.') == f'{weights:.1f}'
    if file in CARDS: assert expected['total'] < CARDS[file]
    else: assert expected['total'] > 79 and 'more than it has' in comment
    assert weights + 1 < .95*CARDS.get(file, 79.)*cfg.teacher_engine.tensor_parallel_size


def test_older_names_are_read():
    "`train.method` and the teacher `reference` of configs made before are `train.tuning` and `oracle`"
    old = RunConfig.make(dict(teacher='reference', train=dict(method='full'), rl=dict(method='full')))
    assert (old.teacher, old.train.tuning, old.rl.tuning) == (('oracle',), 'full', 'full')
    assert RunConfig.make(old.model_dump()) == old
    assert RunConfig.load(shipped('data')/'results'/'cpu'/'config.yaml').teacher == ('expert',)
