"Stores on the command line, and the promises behind it: a merge is exactly-once under SIGKILL, a pruned store can still be salvaged"
import json
import random
import sqlite3
import subprocess
import sys

from cgd.store import (
    Completion, Request, Store, add_completion, begin_session, contents, merge_stores, prune_store, _salvage,
    sessions)
from test_kill import CONTEXT, count, kill_after, table


def cgd(*words) -> tuple[int, str]:
    "Exit code and all output of the command"
    done = subprocess.run([sys.executable, '-c', 'import sys, cgd.cli; sys.exit(cgd.cli.main())', *map(str, words)],
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def fill(path, keys, stage='draft', text='answer'):
    with Store(path) as store:
        session = begin_session(store, stage, 'model', 'engine 1', {})
        for key in keys:
            add_completion(store, session, Request(f'p{key}', [{'role': 'user', 'content': f'{key}?'}]), Completion(f'{text} {key}', 'stop', 5, 2, key=f'k{key}'), seconds=1.)
    return path


def test_list_export_merge_prune_as_a_user_types_them(tmp_path):
    ours, other = fill(tmp_path/'ours.sqlite', range(3)), fill(tmp_path/'other.sqlite', range(2, 6), 'critique')
    assert cgd('store', ours, 'merge', other) == (0, f'{other}: 3 rows added, 1 known already, 0 damaged\n')
    assert cgd('store', ours, 'merge', other) == (0, f'{other}: 0 rows added, 4 known already, 0 damaged\n')
    code, text = cgd('store', ours)
    assert code == 0 and '3 rows' in text and 'critique: model, engine 1' in text and '6 rows in all' in text
    assert cgd('store', ours, 'export', tmp_path/'all.jsonl')[0] == 0
    rows = [json.loads(line) for line in (tmp_path/'all.jsonl').read_text().splitlines()]
    assert [r['key'] for r in rows] == [f'k{i}' for i in range(6)] and {r['stage'] for r in rows} == {'draft', 'critique'}
    assert cgd('store', ours, 'prune', '--stage', 'critique') == (0, '3 rows deleted, 3 left\n')
    assert [r['stage'] for r in contents(Store(ours))] == ['draft']
    for words, want in ((['none.sqlite'], 'no such store'), ([tmp_path/'all.jsonl'], 'not a store'), ([ours, 'prune'], 'name a stage'), ([ours, 'prune', '--stage', 'x'], 'draft by model')):
        code, text = cgd('store', *words)
        assert code == 1 and want in text and 'Traceback' not in text
    assert (tmp_path/'all.jsonl').read_text().startswith('{')            # a file that is no store is left alone


def take_in(path, shards):
    with Store(path) as store: merge_stores(store, shards)


def test_a_merge_killed_at_any_moment_is_repeated_exactly_once(tmp_path, long):
    shards = [fill(tmp_path/f's{i}.sqlite', range(i * 300, i * 300 + 400)) for i in range(5)]   # they overlap by a hundred
    path, draw = tmp_path/'whole.sqlite', random.Random(0)
    Store(path).close()
    killed = []
    for _ in range(10 if long else 3):
        process = CONTEXT.Process(target=take_in, args=(path, shards))
        process.start()
        killed.append(kill_after(process, path, draw.randint(1, 600)))
        assert count(path) in {0, *(400 + 300 * i for i in range(5))}     # whole shards only
    assert any(killed)
    take_in(path, shards)
    take_in(path, shards)
    assert sorted(r[1] for r in table(path)) == sorted(f'k{i}' for i in range(1600))
    with Store(path) as store: assert len(sessions(store)) == 5 and sum(s['seconds'] for s in sessions(store)) == 5


def test_a_shard_merged_while_it_grew_is_completed(tmp_path):
    shard = fill(tmp_path/'shard.sqlite', range(3))
    with Store(tmp_path/'whole.sqlite') as store:
        merge_stores(store, [shard])
        with Store(shard) as growing: add_completion(growing, 1, Request('p3', []), Completion('answer 3', 'stop', 5, 2, key='k3'), seconds=9.)
        assert [r['added'] for r in merge_stores(store, [shard])] == [1]
        assert [(s['requests'], s['seconds']) for s in sessions(store)] == [(4, 9.)]


def test_a_damaged_row_is_not_merged(tmp_path):
    shard = fill(tmp_path/'shard.sqlite', range(3))
    db = sqlite3.connect(shard)
    db.execute("UPDATE completions SET text = 'forged' WHERE key = 'k1'")
    db.commit()
    db.close()
    with Store(tmp_path/'whole.sqlite') as store:
        assert [(r['added'], r['lost']) for r in merge_stores(store, [shard])] == [(2, 1)]
        assert set(store.get(['k0', 'k1', 'k2'])) == {'k0', 'k2'}


def test_what_is_left_after_pruning_survives_a_salvage(tmp_path):
    path = fill(tmp_path/'s.sqlite', range(3000), 'draft', 'long ' * 20)
    fill(path, range(3000, 3010), 'critique')
    with Store(path) as store:
        before = store._do("SELECT key, text, digest FROM completions WHERE session = 2 ORDER BY id")
        assert prune_store(store, stage='draft') == 3000
        assert store._do('SELECT key, text, digest FROM completions ORDER BY id') == before
        assert store._do('SELECT max(id) FROM completions') == [(10,)] and store._do('SELECT id FROM sessions') == [(1,)]
    assert path.stat().st_size < 64 * 3000                                # the old ids would have been out of reach
    assert _salvage(path)[1:] == (10, 0)
    with Store(path) as store: assert [s['requests'] for s in sessions(store)] == [10]
