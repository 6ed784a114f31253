"An LM teacher end to end on a real engine: the student's own model critiques and refines its drafts"
import shutil
from pathlib import Path

import pytest

from cgd.data import load_problems
from cgd.process import launch
from cgd.store import Request, SampleConfig, Store, sessions
from cgd.generate import EngineConfig, complete
from cgd.engines import _built_for_cpu, _sample_guessed, choose_engine, engine_env, open_engine, vllm_fault
from cgd.rollouts import draft
from cgd.teacher import TeacherConfig, critique, direct, open_teacher, refine

DRAFTS = Path(__file__).parent.parent/'nbs'/'recordings'/'drafts.jsonl'   # by the student, as the notebooks replay them


@pytest.mark.parametrize('preset', ['paper', 'chained'])
def test_student_teaches_itself(preset, tmp_path_factory, capsys, long):
    if preset == 'chained' and not long: pytest.skip('other prompts, the same code: --long')
    store_path = tmp_path_factory.getbasetemp()/'teacher.sqlite'     # shared: chained critiques are asked as paper's are
    cfg = TeacherConfig(preset=preset, max_new_tokens=24)
    with open_engine(f'recorded:{DRAFTS}') as student, Store(tmp_path_factory.getbasetemp()/'drafts.sqlite') as store:
        traces = draft(load_problems('train', limit=2).rows, student, store, SampleConfig())
    with Store(store_path) as store, open_teacher(f'{choose_engine("smollm2")}:smollm2', cfg) as teacher:
        taught = direct(refine(critique(traces, teacher, store), teacher, store), teacher, store)
        kept = len(store)
        again = direct(refine(critique(traces, teacher, store), teacher, store), teacher, store)
        assert len(store) == kept and again == taught                # resumed from the store, nothing asked twice
        stages = {s['stage'] for s in sessions(store)}
    assert {'critique', 'refine', 'direct'} <= stages
    assert [r['problem_id'] for r in taught] == [r['problem_id'] for r in traces] and len({r['row_id'] for r in taught}) == 2
    assert {(r['teacher'], r['preset']) for r in taught} == {('smollm2', preset)}
    for r in taught:
        assert r['critique'].strip() and r['refinement'].strip() and r['direct'].strip()
        assert {r['critique_finish'], r['refinement_finish'], r['direct_finish']} <= {'stop', 'length'} and 0 < r['critique_tokens'] <= 24
        assert r['verdict'] in ('right', 'wrong', 'unparsed') and (r['critique_finish'] == 'stop' or r['verdict'] == 'unparsed')
        assert r['refinement_grade'] in ('right', 'wrong', 'no_answer')
        assert len({r['critique_key'], r['refinement_key'], r['direct_key']}) == 3


def recorded_drafts(folder: Path, n: int) -> list[dict]:
    with open_engine(f'recorded:{DRAFTS}') as student, Store(folder/'drafts.sqlite') as store:
        return draft(load_problems('train', limit=n).rows, student, store, SampleConfig())


def poisoned(rows: list[dict]) -> list[dict]:
    return [row | dict(reference='POISON 777', solution='POISON: 1 + 1 = 777.\nThe answer is 777.') for row in rows]


TAUGHT = 'critique', 'verdict', 'refinement', 'direct'   # what a teacher writes


def test_a_teacher_who_solves_first_is_never_given_the_gold(tiny_student, tmp_path):
    "Taught anew with poisoned gold, in a store of its own, all it writes is the same to the byte; a teacher with the reference is given it"
    drafts, cfg = recorded_drafts(tmp_path, 2), TeacherConfig(preset='solved', max_new_tokens=12)

    def taught(rows, name, **more):
        with Store(tmp_path/name) as store, open_teacher(f'hf:{tiny_student}', cfg.model_copy(update=more)) as teacher:
            rows = direct(refine(critique(rows, teacher, store), teacher, store), teacher, store)
            return [[r[c] for c in TAUGHT] for r in rows], str(store.db.execute('SELECT request FROM completions').fetchall())
    (clean, asked), (again, asked_again) = taught(drafts, 'clean'), taught(poisoned(drafts), 'poisoned')
    assert clean == again and asked == asked_again and 'POISON' not in asked_again
    assert 'POISON' in taught(poisoned(drafts), 'told', with_reference=True)[1]


def test_the_expert_is_never_given_the_gold(tmp_path):
    "With poisoned gold it asks for nothing that it has not been asked before, and so writes the same; it is right where the draft is wrong"
    drafts = recorded_drafts(tmp_path, 6)
    with Store(tmp_path/'taught.sqlite') as store, open_teacher('expert') as expert:
        clean = direct(refine(critique(drafts, expert, store), expert, store), expert, store)
        kept = len(store)
        again = direct(refine(critique(poisoned(drafts), expert, store), expert, store), expert, store)
        assert len(store) == kept == 3 * len(drafts)
    assert [[r[c] for c in TAUGHT] for r in clean] == [[r[c] for c in TAUGHT] for r in again]
    assert {(r['teacher'], r['preset']) for r in clean} == {('expert', 'solved')}
    right = {text: sum(r[f'{text}_grade'] == 'right' for r in clean) for text in ('draft', 'refinement')}
    assert right['refinement'] > right['draft'], right
    assert all(r['verdict'] in ('right', 'wrong') for r in clean)


@pytest.fixture
def rambler(tiny_model, tmp_path) -> str:
    "A random model whose layers say little, so that it often says a token again"
    from safetensors.torch import load_file, save_file
    shutil.copytree(tiny_model, folder := tmp_path/'rambler')
    weights = load_file(folder/'model.safetensors')
    save_file({name: weight * (.02 if 'o_proj' in name or 'down_proj' in name else 1) for name, weight in weights.items()},
              folder/'model.safetensors', metadata={'format': 'pt'})
    return str(folder)


def counted(n, **how):
    return [Request(f'{i}', [{'role': 'user', 'content': f'Count from {i} to {i + 9}: {i} {i + 1}'}], **how) for i in range(n)]


def answers(model, speculate, path):
    "Greedy and sampled rows in one batch, one greedy one up to the context's end; and how many tokens were guessed right"
    asked = [*counted(4, max_new_tokens=60), *counted(3, max_new_tokens=30, temperature=.9, seed=5), *counted(5, max_new_tokens=4000)[4:]]
    with Store(path) as store, open_engine(f'vllm:{model}', in_process=True, kv_cache_gib=1, max_model_len=256, speculate=speculate) as engine:
        engine._load_once()
        right = []
        if speculate == 'auto':
            guesser = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.model_runner.drafter
            learn = guesser.learn
            guesser.learn = lambda offered, came: right.append(came) or learn(offered, came)
        done = complete(engine, asked, store)
        return [(c.key, c.text, c.finish_reason, c.completion_tokens) for c in done], sum(right)


@pytest.mark.skipif(bool(vllm_fault()) or not _built_for_cpu(), reason='vLLM guesses ahead on a CPU')
def test_guesses_change_no_text_greedy_or_sampled(rambler, tmp_path):
    plain, ahead = (launch('test_teacher:answers', rambler, how, str(tmp_path/f'{how}.sqlite'), env=engine_env(EngineConfig(kv_cache_gib=1)))
                    for how in ('off', 'auto'))
    assert ahead[1] > 30 and ahead[0] == plain[0]       # many guesses, the same texts, and the same keys: no part of an engine's identity
    *_, (_, _, finish, size) = plain[0]
    assert finish == 'length' and size > 100 and len({text for _, text, *_ in plain[0]}) > 5


@pytest.mark.skipif(bool(vllm_fault()) or not _built_for_cpu(), reason='vLLM guesses ahead on a CPU')
def test_a_sampled_row_leaves_the_guesses_of_greedy_ones_alone():
    "vLLM 0.32 itself checks them against logits that it has divided by what was left in memory"
    import torch
    from vllm.platforms import current_platform
    current_platform.import_kernels()
    current_platform.register_triton_kernel_overrides()
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
    draw, size, logits = Sampler(), 1000, torch.randn(7, 1000, generator=torch.Generator().manual_seed(1))
    def how():   # a greedy row, a sampled one, a greedy one
        return SamplingMetadata(temperature=torch.tensor([0., .9, 0.]), all_greedy=False, all_random=False, top_p=None, top_k=None,
                                generators={1: torch.Generator().manual_seed(5)}, max_num_logprobs=None, no_penalties=True, prompt_token_ids=None,
                                frequency_penalties=torch.zeros(3), presence_penalties=torch.zeros(3), repetition_penalties=torch.ones(3),
                                output_token_ids=[[], [], []], allowed_token_ids_mask=None, bad_words_token_ids={}, logitsprocs=LogitsProcessors())
    best = logits.argmax(-1).tolist()
    ids = torch.tensor([best[0], best[1], best[4], (best[5] + 1) % size], dtype=torch.int32)   # the last of four is wrong
    guesses = SpecDecodeMetadata(draft_token_ids=ids, num_draft_tokens=[2, 0, 2], cu_num_draft_tokens=torch.tensor([2, 2, 4], dtype=torch.int32),
                                 cu_num_sampled_tokens=torch.tensor([3, 4, 7], dtype=torch.int32), target_logits_indices=torch.tensor([0, 1, 4, 5]),
                                 bonus_logits_indices=torch.tensor([2, 3, 6]), logits_indices=torch.arange(7))
    alone = draw(logits[[2, 3, 6]], how()).sampled_token_ids[1, 0].item()   # what its seed draws without guesses
    out = _sample_guessed(draw, RejectionSampler(draw).forward, guesses, None, logits.clone(), how()).sampled_token_ids.tolist()
    assert out == [best[:3], [alone, -1, -1], [*best[4:6], -1]]
