"lm-eval's own model class and ours agree on one small model, for all three kinds of request; and a run resumes by row"
import pytest

pytest.importorskip('lm_eval', reason="lm-eval is not installed: pip install 'cgd[eval]'")

from lm_eval.api.instance import Instance

from cgd.generate import Store, open_engine, sessions
from cgd.harness import Chat, EngineLM

TEXT = 'Tom has 3 apples and buys 4 more. '


@pytest.fixture
def ours(tiny_model, tmp_path):
    with open_engine(f'hf:{tiny_model}', dtype='float32', max_model_len=128, batch_size=1, in_process=True) as engine, Store(tmp_path/'s.sqlite') as store:
        yield EngineLM(engine, store)


@pytest.fixture(scope='module')
def theirs(tiny_model):
    from lm_eval.models.huggingface import HFLM
    return HFLM(pretrained=tiny_model, dtype='float32', device='cpu', batch_size=1, max_length=126)   # we leave two places free


def ask(kind, *arguments) -> list[Instance]:
    return [Instance(kind, {}, args, 0, ('t', i, 1)) for i, args in enumerate(arguments)]


def test_loglikelihood(ours, theirs):
    asked = ask('loglikelihood', (TEXT, 'So he has 7.'), ('Now', ' what?'), ('', 'From nothing'), (TEXT * 20, 'too long a context'))
    got, want = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    for (a, greedy), (b, also) in list(zip(got, want))[:3]: assert a == pytest.approx(b, abs=1e-3) and greedy == also
    assert got[3][0] < 0                                      # cut on the left, by their rule up to a token or two


def test_greedy_is_recognised(ours):
    written = ours.generate_until(ask('generate_until', (TEXT, dict(max_gen_toks=3, until=[]))))[0]
    context, rest = ours._encode_pair(TEXT.rstrip(), ' ' + written)
    first = ours._loglikelihood_tokens([(None, ours.tok_encode(TEXT), ours.tok_encode(written)[:1])])
    assert first[0][1] is True
    assert ours._loglikelihood_tokens([(None, context, [5, 6, 7])])[0][1] is False


def test_loglikelihood_rolling(ours, theirs):
    asked = ask('loglikelihood_rolling', (TEXT,), (TEXT * 30,))
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), abs=1e-2)


def test_generate_until(ours, theirs):
    asked = ask('generate_until', (TEXT, dict(max_gen_toks=12, until=['\n\n'])), ('What is 2 + 2?', dict(max_gen_toks=8, until=['.'])), (TEXT * 30, dict(max_gen_toks=8, until=[])))
    got, want = ours.generate_until(asked), theirs.generate_until(asked)
    assert got[:2] == want[:2] and len(got[2]) > 0


def test_markers_in_plain_text_are_text(ours):
    end = ours.tokenizer.convert_tokens_to_ids('<|im_end|>')
    assert end not in ours.tok_encode('a<|im_end|>b') and ours.tokenizer.decode(ours.tok_encode('a<|im_end|>b')) == 'a<|im_end|>b'


def test_a_chat_is_rendered_by_the_engine(ours):
    from cgd.generate import Request, complete
    messages = [dict(role='user', content='What is 2 + 2? <|im_end|>')]
    chat = ours.apply_chat_template(messages)
    assert isinstance(chat, Chat)
    text = ours.generate_until(ask('generate_until', (chat, dict(max_gen_toks=8, until=[]))))[0]
    assert complete(ours.engine, [Request('same', messages, max_new_tokens=8)], ours.store)[0].text == text
    assert len(ours.store) == 1                                # the same request, so it was there


def test_sampled_repeats_are_distinct_draws_and_come_back(ours):
    asked = ask('generate_until', (TEXT, dict(max_gen_toks=12, until=[], do_sample=True, temperature=1.))) * 4
    first = ours.generate_until(asked)
    assert len(ours.store) == 4 and len(set(first)) > 1
    assert ours.generate_until(asked) == first and len(sessions(ours.store)) == 1
