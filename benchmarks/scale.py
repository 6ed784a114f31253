"""A table that no memory should have to hold: recorded rows stream through draft, critique, refine and view.

    python benchmarks/scale.py                              # 10,000, 100,000 and 1,000,000 rows in runs/scale: about three quarters of an hour of one core
    python benchmarks/scale.py --sizes 500 1000 2000        # to see that all works

Rows are 24 recorded problems and drafts of the small student over and over, each with a case number of its own, so that no two requests are equal;
the teacher is the oracle. The recording comes in portions, as the problems do. Each size runs in processes of their own, through one store (every row
committed) and Parquet parts; stopped anywhere, the same command goes on from there, and what is measured is summed: wall-clock and processor seconds
(the ones to compare where other jobs share the machine) and the peak resident memory (VmHWM, so Linux) of the largest process. Making the input is not
timed. A row that stands twice, or is missing, is an error.
"""
import argparse
import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cgd.core import content_hash, is_current, mark_current, read_table, write_atomic, write_table
from cgd.process import launch
from cgd.data import load_problems
from cgd.store import SampleConfig, Store, sample_requests
from cgd.engines import open_engine
from cgd.methods import ViewConfig
from cgd.rollouts import draft
from cgd.teacher import open_teacher, teach
from cgd.views import build

DRAFTS = Path(__file__).parent.parent/'nbs'/'recordings'/'drafts.jsonl'
SAMPLING, VIEW = SampleConfig(), 'cgd'


def make_input(folder: Path, size: int, rows_at_once: int):
    "A problem file, and a recording for each portion of it; written a portion at a time"
    recorded = {r['asked']['messages'][0]['content']: r for r in read_table(DRAFTS)}
    problems = [p for p in load_problems('train') if p['prompt'] in recorded]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder/'part.jsonl', 'w') as file:
        for start in range(0, size, rows_at_once):
            recording = []
            for i in range(start, min(start + rows_at_once, size)):
                p = problems[i % len(problems)]
                row = p | dict(problem_id=f'case-{i}', prompt=f'{p["prompt"]} (Case {i}.)')
                asked = sample_requests(row['problem_id'], [{'role': 'user', 'content': row['prompt']}], SAMPLING)[0].asked()
                recording.append(recorded[p['prompt']] | dict(asked=json.loads(json.dumps(asked))))
                file.write(json.dumps(row) + '\n')
            write_table(recording, folder/'recordings'/f'case-{start}.jsonl')
    (folder/'part.jsonl').rename(folder/'problems.jsonl')


def peak_mb() -> float:
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


def portions(file: Path, rows_at_once: int):
    "Problems, so many at a time"
    with open(file) as lines:
        while rows := [json.loads(line) for line in itertools.islice(lines, rows_at_once)]: yield rows


def in_parts(portions, work, out: Path) -> list[Path]:
    "A table from portions of another, a file for each; what is there already is not made again"
    parts = []
    for number, rows in enumerate(portions):
        part, inputs = out/f'part-{number:05}.parquet', content_hash(rows)
        if not is_current(part, inputs):
            write_table(work(rows), part)
            mark_current(part, inputs)
        parts.append(part)
    return parts


def flow(folder: Path, rows_at_once: int):
    "All stages of one size; a line in log.jsonl for each part that was made, so that nothing measured is lost when it is stopped"
    clock = [time.perf_counter(), time.process_time()]
    clock[1] = 0.   # the process began with its imports

    def logged(stage, made):
        now = [time.perf_counter(), time.process_time()]
        with open(folder/'log.jsonl', 'a') as log:
            log.write(json.dumps(dict(stage=stage, seconds=now[0] - clock[0], cpu=now[1] - clock[1], peak_mb=peak_mb(), rows=len(made))) + '\n')
        clock[:] = now
        return made

    def drafts(rows):
        with open_engine(f'recorded:{folder}/recordings/{rows[0]["problem_id"]}.jsonl') as student: return logged('draft', draft(rows, student, store, SAMPLING))
    with Store(folder/'store.sqlite') as store, open_teacher('oracle') as teacher:
        made = in_parts(portions(folder/'problems.jsonl', rows_at_once), drafts, folder/'drafts')
        traces = in_parts(map(read_table, made), lambda rows: logged('teach', teach(rows, teacher, store)), folder/'traces')
        logged('view', in_parts(map(read_table, traces), lambda rows: build(rows, VIEW, ViewConfig()).rows, folder/VIEW))


def check(folder: Path, size: int):
    "Raise unless every row is there once, in the store and in each table"
    import pyarrow.parquet as pq
    with Store(folder/'store.sqlite') as store: assert len(store) == size, f'{len(store)} completions of {size}'
    for table in ('drafts', 'traces', VIEW):
        name = 'problem_id' if table == 'drafts' else 'row_id'
        names = pd.concat([pq.read_table(part, columns=[name]).column(name).to_pandas() for part in sorted((folder/table).glob('*.parquet'))])
        assert len(names) == names.nunique() == size, f'{table}: {len(names)} rows, {names.nunique()} of them different, of {size}'


def measure(folder: Path, size: int, rows_at_once: int) -> dict:
    "Run one size to its end, or go on with it"
    if not (folder/'problems.jsonl').exists():
        print(f'{size:,} rows: making the input', flush=True)
        launch('scale:make_input', folder, size, rows_at_once)
    if not (folder/'done').exists():
        print(f'{size:,} rows: streaming', flush=True)
        launch('scale:flow', folder, rows_at_once)
        launch('scale:check', folder, size)
        write_atomic(folder/'done', '')
    log = pd.DataFrame([json.loads(line) for line in (folder/'log.jsonl').read_text().splitlines()])
    disk = lambda pattern: sum(f.stat().st_size for f in folder.glob(pattern)) / 1e6
    stage = {f'{s}_cpu': log[log.stage == s].cpu.sum() for s in ('draft', 'teach', 'view')}
    return dict(rows=size, rows_at_once=rows_at_once, seconds=log.seconds.sum(), cpu_seconds=log.cpu.sum(), **stage, peak_mb=log.peak_mb.max(),
                store_mb=disk('store.sqlite'), parquet_mb=sum(disk(f'{t}/*.parquet') for t in ('drafts', 'traces', VIEW)))


def fit(rows: list[dict], column: str) -> str:
    "Seconds against rows: the exponent, and the straight line"
    n, t = (np.array([r[k] for r in rows], dtype=float) for k in ('rows', column))
    exponent, _ = np.polyfit(np.log(n), np.log(t), 1)
    slope, start = np.polyfit(n, t, 1, w=1/t)   # relative errors count alike at every size
    off = max(abs(start + slope*n - t) / t)
    return f'{column}: {start:.1f} s + {1000*slope:.2f} s a thousand rows (off by {off:.0%} at most); time grows as rows^{exponent:.3f}, where 1 is linear'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[10_000, 100_000, 1_000_000])
    parser.add_argument('--rows-at-once', type=int, default=2048)
    parser.add_argument('--folder', type=Path, default=Path('runs/scale'), help='what is made stays here')
    parser.add_argument('--out', help='a CSV file for the measurements')
    args = parser.parse_args()
    rows = [measure(args.folder.absolute()/str(size), size, args.rows_at_once) for size in args.sizes]
    if args.out: write_atomic(args.out, pd.DataFrame(rows).to_csv(index=False, float_format='%.6g'))
    print(pd.DataFrame(rows).round(1).to_string(index=False))
    if len(rows) > 1:
        for column in ('seconds', 'cpu_seconds'): print(fit(rows, column))
    peak = max(r['peak_mb'] for r in rows)
    print(f'peak memory {peak:,.0f} MB; wanted: under 1,000; every row once in the store, in traces and in pairs')
    return int(peak >= 1000)


if __name__ == '__main__': raise SystemExit(main())
