"Shared by the tests: `--long`, and a tiny random model that every engine can load"
import pytest


def pytest_addoption(parser):
    parser.addoption('--long', action='store_true', help='more rounds and the slow tests (`make test-all`)')


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
