"Shared by the tests: `--long`, processes that start warm, the order for several workers, and a tiny random model that every engine can load"
import pytest
from hypothesis import settings

import warm

settings.register_profile('cgd', deadline=None, derandomize=True)   # alike on every machine
settings.load_profile('cgd')

DEAR = ['00_tour.ipynb', 'test_train.py', 'test_rivals.py', 'test_pipeline.py', 'test_engines.py', 'test_bad_input.py', 'test_kill.py', 'test_probe.py', 'test_templates.py',
        '47_pipeline.ipynb', '32_train.ipynb', '34_rivals.ipynb', '38_harness.ipynb', '41_probe.ipynb', 'test_export.py', 'test_publish.py', 'test_given.py', 'test_estimate.py', 'test_progress.py']   # the others as they come


def pytest_addoption(parser):
    parser.addoption('--long', action='store_true', help='more rounds and the slow tests (`make test-all`)')


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    warm.use()
    if session.config.getoption('numprocesses', None) or hasattr(session.config, 'workerinput'): warm.begin()   # one server for all workers


def unit(nodeid: str) -> str:
    "What goes to one worker as a whole: a notebook, or the tests of a file, which share fixtures"
    file, _, test = nodeid.partition('::')
    return test.partition('[')[2].rstrip(']') if file.endswith('test_notebooks.py') else file.rpartition('/')[2]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Units(LoadFileScheduling):
        def _split_scope(self, nodeid): return unit(nodeid)
    return Units(config, log)


def pytest_collection_modifyitems(items):
    "The dear ones first, so that all workers end together"
    items.sort(key=lambda item: DEAR.index(name) if (name := unit(item.nodeid)) in DEAR else len(DEAR))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    "What hostile texts left in a log must be writable, or xdist's worker cannot report the test"
    report = yield
    report.sections = [(name, text.encode('utf-8', 'backslashreplace').decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope='session')
def long(request) -> bool:
    return request.config.getoption('--long')


def random_llama(folder, context) -> str:
    "A two-layer Llama of random weights, with the embedded student's tokenizer and its chat template"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from cgd.models import find_model
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(find_model('smollm2'))
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=True, initializer_range=.5,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> str:
    "One with a short context, that every engine can load"
    return random_llama(tmp_path_factory.mktemp('tiny'), 256)


@pytest.fixture(scope='session')
def tiny_student(tmp_path_factory) -> str:
    "One with a context that holds a problem, a draft and a critique"
    return random_llama(tmp_path_factory.mktemp('student'), 2048)
