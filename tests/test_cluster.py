"Generation on two Ray nodes: a worker killed in the middle, and every row once, the same as on one machine"
import os
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from cgd.cluster import ClusterConfig, open_cluster
from cgd.core import CgdError
from cgd.generate import Request, Store, complete, contents, open_engine

pytestmark = pytest.mark.skipif(not find_spec('ray'), reason='Ray is an optional extra')
OPTIONS = dict(dtype='float32', batch_size=8)


def ask(n) -> list[Request]:
    return [Request(f'p{i}', [{'role': 'user', 'content': f'What is {i} + {i * 7 % 11}?'}], max_new_tokens=4) for i in range(n)]


@pytest.fixture(scope='module')
def two_nodes(long):
    if not long: pytest.skip('starts two Ray nodes, which give up where a busy machine starts them too slowly: with --long')
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False, node_ip_address='127.0.0.1'))
    cluster.add_node(num_cpus=1, node_ip_address='127.0.0.1')   # the second machine
    ray.init(address=cluster.address, logging_level='ERROR', log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


def rows_in(shard) -> int:
    import sqlite3
    db = sqlite3.connect(shard)
    try: return db.execute('SELECT count(*) FROM completions').fetchone()[0]
    except sqlite3.OperationalError: return 0   # its tables are being made
    finally: db.close()


def kill_one(folder, after, killed):
    "SIGKILL the first worker whose shard has so many rows"
    while not killed:
        for shard in folder.glob('*.sqlite'):
            if rows_in(shard) >= after:
                killed.append((pid := int(shard.stem.rpartition('-')[2])))
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(.02)


def test_two_nodes_and_a_killed_worker(two_nodes, tiny_model, tmp_path, long):
    requests, shards, killed = ask(2000 if long else 200), tmp_path/'shards', []
    cluster = ClusterConfig(workers=2, rows_at_once=100 if long else 25, shards=str(shards))
    watch = threading.Thread(target=kill_one, args=(shards, len(requests) // 20, killed), daemon=True)
    shards.mkdir()
    watch.start()
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        came = complete(engine, requests, store)
        assert len(killed) == 1
        assert len(store) == len(requests) == len({c.key for c in came})          # all rows, each once
        workers = [c for c in contents(store)]
        assert sum(w['rows'] for w in workers) == len(requests) and sum(w['sessions'] for w in workers) >= 3   # of two workers, and of the one that came for the dead
        assert list(shards.iterdir()) == []                                       # what is merged is not kept twice
        assert complete(engine, requests, store) == came
    some = requests[::len(requests) // 10]
    with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as alone, Store(tmp_path/'store.sqlite') as store:
        before = len(store)
        assert complete(alone, some, store) == came[::len(requests) // 10] and len(store) == before   # known on one machine, too


def test_too_small_a_cluster_is_one_clear_error(two_nodes, tiny_model, tmp_path):
    cluster = ClusterConfig(workers=3, shards=str(tmp_path/'shards'))
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        with pytest.raises(CgdError, match='workers: 3 with 1 CPU each are more than the 2 CPU'): complete(engine, ask(2), store)


def test_a_worker_with_another_engine_is_refused(two_nodes, tiny_model, tmp_path):
    cluster = ClusterConfig(workers=1, shards=str(tmp_path/'shards'))
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        engine.identity = engine.identity | dict(dtype='bfloat16')
        with pytest.raises(Exception, match='dtype: bfloat16 here, float32 on'): complete(engine, ask(2), store)
