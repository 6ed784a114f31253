"""A run in a minute, without waiting for a model: what student and teacher once wrote is replayed, all else is done now. It ends with the report.
Drafts, the teacher's words and answers are those of the default run in data/results/cpu; the grades, the pairs, the tests and the page are made here."""
import json, os, sys, tempfile, webbrowser
from pathlib import Path

import cgd
from cgd.core import read_table, shipped, write_atomic, write_table
from cgd.data import load_problems
from cgd.evaluate import messages
from cgd.benchmarks import load_benchmark
from cgd.pipeline import report
from cgd.plan import RunConfig
from cgd.store import SampleConfig, sample_requests
from cgd.teacher import PRESETS, critique_messages, refine_messages

N, OUT, SOURCE = 16, Path('runs/demo'), shipped('data')/'results'/'cpu'
NOTE = 'A replay: all texts are those of the run in data/results/cpu; no model wrote or learnt anything for this page.'
SOLVED = PRESETS['solved']   # how the expert teacher is asked


def recording(path: Path, asked: list) -> str:
    "A file that the engine `recorded` replays, from requests and rows with what was answered"
    rows = [dict(asked=request.asked(), text=row[part], finish_reason=row[finish], prompt_tokens=None, completion_tokens=row[tokens])
            for request, row, part, finish, tokens in asked]
    return f'recorded:{write_table(json.loads(json.dumps(rows)), path)}'


def drafts_asked(run: RunConfig) -> list:
    drafted = {row['problem_id']: row for row in read_table(SOURCE/'traces.parquet')}
    return [(sample_requests(p['problem_id'], [dict(role='user', content=p['prompt'])], run.draft)[0], drafted[p['problem_id']],
             'draft', 'draft_finish', 'draft_tokens') for p in load_problems(run.problems, N)]


def lessons_asked(run: RunConfig) -> list:
    taught = {row['problem_id']: row for row in read_table(SOURCE/'traces.parquet')}
    drawn = SampleConfig(max_new_tokens=run.teach.max_new_tokens)
    asked = [(messages, taught[p['problem_id']], text) for p in load_problems(run.problems, N) for messages, text in (
        ([dict(role='user', content=p['prompt'])], 'direct'), (critique_messages(SOLVED, taught[p['problem_id']]), 'critique'),
        (refine_messages(SOLVED, taught[p['problem_id']]), 'refinement'))]
    return [(sample_requests(row['row_id'], messages, drawn)[0], row, text, f'{text}_finish', f'{text}_tokens') for messages, row, text in asked]


def answers_asked(run: RunConfig, method: str) -> list:
    items, answered = load_benchmark('test', N), {row['id']: row for row in read_table(SOURCE/'records'/f'{method}.test.parquet')}
    return [(sample_requests(p['problem_id'], messages(items, p, run.eval), run.eval)[0], answered[p['problem_id']],
             'completion', 'finish_reason', 'completion_tokens') for p in items]


def show(page: Path):
    "Open a page where there is a display; a browser that runs in the terminal would take it over"
    display = sys.platform in ('darwin', 'win32') or any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER'))
    opened = display and webbrowser.open(page.absolute().as_uri())
    print(f'{"opened" if opened else "open this in a browser:"} {page.absolute()}')


def main():
    run = RunConfig.load(SOURCE/'config.yaml')
    with tempfile.TemporaryDirectory() as work:
        store, spoken = Path(work)/'store.sqlite', {m: answers_asked(run, m) for m in ('base', *run.methods)}
        models = {m: recording(Path(work)/f'{m}.jsonl', asked) for m, asked in spoken.items()}
        student = recording(Path(work)/f'{run.student}.jsonl', drafts_asked(run))
        teacher = recording(Path(work)/'expert.jsonl', lessons_asked(run))
        print(f'replayed: {N} drafts of {run.student}, what the expert teacher said of them, and what the student and its tuned selves '
              f'answer to {N} new problems\n')

        t = cgd.distill(f'{run.problems}:{N}', student, teacher, store, draft=run.draft, teach=run.teach.model_copy(update=dict(preset='solved')))
        t.show(next((i for i, row in enumerate(t) if row['draft_grade'] == 'wrong'), 0))
        print(f'\n{t}\n')
        answers = {m: cgd.evaluate(model, f'test:{N}', store, **run.eval.model_dump()) for m, model in models.items()}
    for method in run.methods: print(write_table(t.pairs(method).rows, OUT/'pairs'/f'{method}.jsonl'))
    t.save(OUT/'traces.parquet')
    for m, e in answers.items(): write_table(e.records, OUT/'records'/f'{m}.test.parquet')
    run.model_copy(update=dict(name=OUT.name, folder=str(OUT.parent), n_problems=N, benchmarks=(f'test:{N}',))).save(OUT/'config.yaml')
    write_atomic(OUT/'note.txt', NOTE)
    print(f'\n{report(OUT)}\n\nThe real thing, with models that write and learn: make run\n')
    show(OUT/'report.html')


if __name__ == '__main__': main()
