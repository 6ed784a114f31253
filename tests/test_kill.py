"Generation that survives: SIGKILL at any row, a torn write-ahead log, a damaged page, a full disk"
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from cgd.core import CgdError, hold_folder, read_table, write_table
from cgd.store import Completion, Request, Store, add_completion, begin_session, _salvage
from cgd.generate import complete
from cgd.engines import open_engine
from warm import CONTEXT   # a kill needs a real process, not twenty seconds of start-up


def run(spec, options, path, requests):
    with open_engine(spec, **options) as engine, Store(path) as store: complete(engine, requests, store)


def start(spec, options, path, requests):
    process = CONTEXT.Process(target=run, args=(spec, options, path, requests))
    process.start()
    return process


def table(path) -> list[tuple]:
    "All rows, whole, in the order they were committed"
    db = sqlite3.connect(path)
    rows = db.execute('SELECT * FROM completions ORDER BY id').fetchall()
    db.close()
    return rows


def count(path) -> int:
    "Rows committed so far"
    if not path.exists(): return 0
    db = sqlite3.connect(path)
    try: return db.execute('SELECT count(*) FROM completions').fetchone()[0]
    except sqlite3.OperationalError: return 0   # its tables are being made
    finally: db.close()


def answers(rows) -> list[tuple]:
    "What must not depend on interruptions: key, request, text, finish_reason, token counts"
    return sorted((r[1], *r[3:9]) for r in rows)


def kill_after(process, path, rows, deadline=120):
    "SIGKILL the process as soon as it has committed `rows` more rows; False if it was done before"
    before, end = count(path), time.time() + deadline
    while process.is_alive() and time.time() < end:
        if count(path) - before >= rows:
            process.kill()
            process.join()
            return process.exitcode == -signal.SIGKILL
        time.sleep(.002)
    assert process.exitcode == 0, 'neither done nor at that row in time'
    return False


def kill_rounds(tmp_path, spec, options, requests, rounds, most):
    "Kill and restart `rounds` times, then let it finish; returns the finished table"
    path, draw, killed, snapshot = tmp_path/'store.sqlite', random.Random(0), 0, []
    for i in range(rounds):
        killed += kill_after(start(spec, options(i), path, requests), path, draw.randint(1, most))
        rows = table(path)
        assert rows[:len(snapshot)] == snapshot, 'a committed row changed'
        snapshot = rows
    process = start(spec, options(0), path, requests)
    process.join()
    assert process.exitcode == 0
    rows = table(path)
    assert killed >= rounds * .6 and len(snapshot) < len(rows), f'only {killed} of {rounds} rounds met a running process'
    assert rows[:len(snapshot)] == snapshot
    assert len({r[1] for r in rows}) == len(rows) == len(requests)
    return rows


def ask(n, **sampling) -> list[Request]:
    return [Request(f'p{i}', [{'role': 'user', 'content': f'What is {i} + {i * 7 % 11}?'}], seed=i if sampling.get('temperature') else 0, **sampling)
            for i in range(n)]


def test_hf_killed_at_random_rows_equals_an_uninterrupted_run(tmp_path, tiny_model, long):
    rounds = 50 if long else 5
    requests = ask(rounds * 9, max_new_tokens=24) + ask(rounds * 3, max_new_tokens=24, temperature=.8)
    options = dict(dtype='float32', batch_size=1)
    # in every fifth round the model lives in a child, which must die with its parent
    rows = kill_rounds(tmp_path, f'hf:{tiny_model}', lambda i: dict(options, in_process=i % 5 != 4), requests, rounds, 10)
    with open_engine(f'hf:{tiny_model}', **options, in_process=True) as engine, Store(tmp_path/'whole.sqlite') as store:
        complete(engine, requests, store)
    assert answers(rows) == answers(table(tmp_path/'whole.sqlite'))


def test_recorded_killed_at_random_rows_equals_an_uninterrupted_run(tmp_path, long):
    rounds = 50 if long else 5
    requests = ask(rounds * 1000)
    write_table([dict(asked=json.loads(json.dumps(r.asked())), text=f'{r.id} \x00 ½', finish_reason='stop', prompt_tokens=9, completion_tokens=3,
                      cached_tokens=0) for r in requests], tmp_path/'recording.jsonl')
    spec = f'recorded:{tmp_path}/recording.jsonl'
    rows = kill_rounds(tmp_path, spec, lambda i: {}, requests, rounds, 800)
    with open_engine(spec) as engine, Store(tmp_path/'whole.sqlite') as store: complete(engine, requests, store)
    assert answers(rows) == answers(table(tmp_path/'whole.sqlite'))


@pytest.fixture
def filled(tmp_path):
    "A closed store of 400 rows of a recorded engine, with all that is needed to fill it again"
    requests = ask(400)
    write_table([dict(asked=json.loads(json.dumps(r.asked())), text=r.id * 100, finish_reason='stop', prompt_tokens=9, completion_tokens=3,
                      cached_tokens=0) for r in requests], tmp_path/'recording.jsonl')
    with open_engine(f'recorded:{tmp_path}/recording.jsonl') as engine, Store(tmp_path/'store.sqlite') as store:
        expected = complete(engine, requests, store)
    return tmp_path/'store.sqlite', engine, requests, expected


def test_a_torn_log_is_rolled_back_to_whole_rows(tmp_path):
    requests = ask(50)
    with Store(tmp_path/'live.sqlite') as store:
        session = begin_session(store, 'draft', 'm', 'e', {})
        sizes = []
        for i, request in enumerate(requests):
            add_completion(store, session, request, Completion(f'{i}' * 50, 'stop', 1, 1, key=f'k{i}'))
            sizes.append((tmp_path/'live.sqlite-wal').stat().st_size)
        for cut in random.Random(0).sample(range(sizes[5], sizes[-1]), 40):
            for tail in ('', '-wal'): shutil.copy(f'{store.path}{tail}', f'{tmp_path}/torn.sqlite{tail}')
            with open(tmp_path/'torn.sqlite-wal', 'r+b') as f: f.truncate(cut)
            with Store(tmp_path/'torn.sqlite') as torn:
                assert [r[1] for r in table(torn.path)] == [f'k{i}' for i in range(len(torn))]   # a beginning, nothing torn
                assert len(torn) == sum(size <= cut for size in sizes)                           # and all that was whole
                assert len(torn.get([f'k{i}' for i in range(50)])) == len(torn)
            for tail in ('', '-wal', '-shm'): (tmp_path/f'torn.sqlite{tail}').unlink(missing_ok=True)


@pytest.mark.parametrize('page', ['leaf', 'index', 'header'])
def test_a_damaged_page_is_detected_saved_and_made_again(filled, page, capsys):
    path, engine, requests, expected = filled
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_completions_1'").fetchone()[0]
    size = db.execute('PRAGMA page_size').fetchone()[0]
    pages = db.execute('PRAGMA page_count').fetchone()[0]
    db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    db.close()
    where = dict(leaf=pages // 2, index=root - 1, header=0)[page]
    with open(path, 'r+b') as f:
        f.seek(where * size)
        f.write(random.Random(0).randbytes(size))
    with Store(path) as store:
        said = capsys.readouterr().err
        assert 'damaged' in said and ('an unknown number lost' if page == 'header' else f'{store.lost} lost') in said
        assert len(store) + store.lost == len(requests) or page == 'header'   # without a header nothing is known
        assert len(store) >= (0 if page == 'header' else 300)
        assert complete(engine, requests, store) == expected
        assert len(store) == len(requests)
    with Store(path) as store: assert store.lost == 0


def test_a_second_damage_overwrites_nothing(filled):
    path, *_ = filled
    whole = path.read_bytes()
    for bad in (b'first', b'second'):
        path.write_bytes(bad + whole[6:])
        assert _salvage(path)[1:] == (0, None)
    assert [f.name for f in sorted(path.parent.glob('*.damaged*'))] == ['store.sqlite.damaged', 'store.sqlite.damaged1']
    assert path.with_name('store.sqlite.damaged1').read_bytes().startswith(b'second')


def test_a_large_store_without_a_header_is_given_up_at_once(tmp_path):
    with open(tmp_path/'s.sqlite', 'wb') as file: file.write(random.Random(0).randbytes(2**24))
    begun = time.process_time()   # a busy machine's clock says nothing
    with Store(tmp_path/'s.sqlite') as store: assert len(store) == 0
    assert time.process_time() - begun < 5


def test_a_changed_byte_in_a_text_is_seen_and_made_again(filled):
    path, engine, requests, expected = filled
    sqlite3.connect(path).execute('PRAGMA wal_checkpoint(TRUNCATE)')
    data = path.read_bytes()
    assert data.count(b'p123p123p123') > 3
    path.write_bytes(data.replace(b'p123p123p123', b'p123\xff123p123', 1))
    with Store(path) as store:
        assert complete(engine, requests, store) == expected
        assert store.lost == 1


def test_a_damaged_store_in_use_is_left_alone(filled):
    path, *_ = filled
    with Store(path):
        data = path.read_bytes()
        path.write_bytes(b'not a database at all' + data[21:])
        with pytest.raises(CgdError, match='open in another process'): Store(path)
        path.write_bytes(data)


def test_a_full_disk_stops_with_one_message_and_keeps_what_was_committed(filled, tmp_path):
    _, engine, requests, expected = filled
    store = Store(tmp_path/'small.sqlite')
    store.db.execute('PRAGMA max_page_count=40')
    with pytest.raises(CgdError, match='full.*make room'): complete(engine, requests, store)
    kept = table(store.path)
    assert 10 < len(kept) < 400
    store.db.execute('PRAGMA max_page_count=100000')
    assert complete(engine, requests, store) == expected
    assert table(store.path)[:len(kept)] == kept
    store.close()


def _open_many(path, start, count):
    start.wait()
    for i in range(count): Store(path/f'{i}.sqlite').close()


def test_a_new_store_is_made_by_several_at_once(tmp_path):
    "The change to WAL is refused, without waiting, while another process makes it"
    start = CONTEXT.Barrier(4)
    makers = [CONTEXT.Process(target=_open_many, args=(tmp_path, start, 40)) for _ in range(4)]
    for m in makers: m.start()
    for m in makers: m.join()
    assert [m.exitcode for m in makers] == [0] * 4 and len(list(tmp_path.glob('*.sqlite'))) == 40


def test_two_processes_fill_one_store(filled, tmp_path):
    _, engine, requests, expected = filled
    both = [start(engine.spec, {}, tmp_path/'both.sqlite', some) for some in (requests[:300], requests[100:])]
    for process in both: process.join()
    assert [process.exitcode for process in both] == [0, 0]
    with Store(tmp_path/'both.sqlite') as store: assert len(store) == 400


def test_of_two_runs_in_one_folder_one_is_refused_and_the_other_ends_whole(tmp_path, tiny_student, long):
    "All of the method with --long, or else its drafts; the one that is refused says who has the folder"
    start = 'import sys; from cgd.cli import main; sys.exit(main())'
    words = [sys.executable, '-c', start, 'run' if long else 'draft', 'cpu', '--folder', tmp_path, '--student', tiny_student,
             '--student-engine', 'hf', '--n-problems', '12', '--draft.max-new-tokens', '16', '--eval.max-new-tokens', '8',
             '--benchmarks', 'test:4', '--train.epochs', '1', '--train.backend', 'trl', '--train.max-length', '1024']
    both = [subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(p.pid, *p.communicate(timeout=600), p.returncode) for p in both]
    (winner, _, _, first), (_, _, said, second) = sorted(ended, key=lambda e: e[3])
    assert (first, second) == (0, 1), ended
    line = said.strip().splitlines()[-1]
    assert f'in use by process {winner} on ' in line and 'Traceback' not in said
    assert read_table(tmp_path/'cpu'/'drafts.parquet') and (tmp_path/'cpu'/'.lock').read_text() == ''
    if long: assert (tmp_path/'cpu'/'report.html').exists() and not list((tmp_path/'cpu'/'models').glob('.*.part'))


def test_a_killed_run_holds_no_folder(tmp_path):
    code = 'import sys, time; from cgd.core import hold_folder\nwith hold_folder(sys.argv[1]): print(flush=True); time.sleep(60)'
    other = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(CgdError, match=f'in use by process {other.pid}'), hold_folder(tmp_path): pass
    other.kill()
    other.wait()
    with hold_folder(tmp_path): pass
