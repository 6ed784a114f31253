"Generation on two Ray nodes: a worker killed in the middle, and every row once, the same as on one machine"
import os
import signal
import socket
import threading
import time
from importlib.util import find_spec

import pytest

from cgd.cluster import ClusterConfig, open_cluster
from cgd.core import CgdError
from cgd.data import load_problems
from cgd.evaluate import EvalConfig, evaluate
from cgd.generate import EngineConfig, complete
from cgd.store import Request, Store, contents
from cgd.engines import open_engine
from cgd.plan import RunConfig
from cgd.pipeline import run

pytestmark = pytest.mark.skipif(not find_spec('ray'), reason='Ray is an optional extra')
OPTIONS = dict(dtype='float32', batch_size=8)


def ask(n) -> list[Request]:
    return [Request(f'p{i}', [{'role': 'user', 'content': f'What is {i} + {i * 7 % 11}?'}], max_new_tokens=4) for i in range(n)]


PATIENCE = dict(RAY_raylet_start_wait_time_s='200', RAY_agent_register_timeout_ms='300000', RAY_worker_register_timeout_seconds='300',
                RAY_health_check_timeout_ms='60000', RAY_worker_niceness='0', RAY_USAGE_STATS_ENABLED='0')   # a busy machine is slow, not broken; Ray's workers are nice to all others by 15


def without_iri_grammar(folder) -> str:
    """A folder for PYTHONPATH that hides `rfc3987_syntax`, which jsonschema loads if it is there (Jupyter brings it) and does without if not.
    It builds its grammar at each import: 3 s of processor of the 5 s that each of Ray's processes needs to start, and a raylet waits 15 s for its
    agent, by no setting longer (ray-project/ray#65983)."""
    (folder/'rfc3987_syntax.py').write_text("raise ImportError('hidden: slow')\n")
    return str(folder)


def free_ports(*names) -> dict[str, int]:
    "For a node's agents, so that its raylet need not wait until they say which they took"
    sockets = {name: socket.create_server(('127.0.0.1', 0)) for name in names}
    ports = {name: s.getsockname()[1] for name, s in sockets.items()}
    for s in sockets.values(): s.close()
    return ports


def node() -> dict:
    "A small node's settings"
    return dict(num_cpus=1, object_store_memory=100 * 2**20, include_log_monitor=False,
                **free_ports('metrics_agent_port', 'metrics_export_port', 'dashboard_agent_listen_port', 'runtime_env_agent_port'))


@pytest.fixture(scope='module')
def two_nodes(long, tmp_path_factory):
    if not long: pytest.skip('starts two Ray nodes: with --long')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENCE.items(): patch.setenv(name, value)
        patch.setenv('PYTHONPATH', without_iri_grammar(tmp_path_factory.mktemp('path')), prepend=os.pathsep)
        import ray
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args=dict(**node(), include_dashboard=False, no_monitor=True))
        try:
            cluster.add_node(**node())   # the second machine
            ray.init(address=cluster.address, logging_level='ERROR', log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def rows_in(shard) -> int:
    import sqlite3
    db = sqlite3.connect(shard)
    try: return db.execute('SELECT count(*) FROM completions').fetchone()[0]
    except sqlite3.OperationalError: return 0   # its tables are being made
    finally: db.close()


def kill_one(folder, after, killed, seen):
    "SIGKILL the first worker whose shard has so many rows; note every worker's shard"
    while True:
        for shard in folder.glob('*/*.sqlite'):   # the folder of this store
            seen.add(shard.stem)
            if not killed and rows_in(shard) >= after:
                killed.append(pid := int(shard.stem.rpartition('-')[2]))
                os.kill(pid, signal.SIGKILL)
        time.sleep(.02)


def test_two_nodes_and_a_killed_worker(two_nodes, tiny_model, tmp_path):
    requests, shards, killed, seen = ask(2000), tmp_path/'shards', [], set()
    cluster = ClusterConfig(workers=2, rows_at_once=100, shards=str(shards))
    watch = threading.Thread(target=kill_one, args=(shards, len(requests) // 20, killed, seen), daemon=True)
    shards.mkdir()
    watch.start()
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        came = complete(engine, requests, store)
        assert len(killed) == 1
        assert len(store) == len(requests) == len({c.key for c in came})          # all rows, each once
        assert sum(c['rows'] for c in contents(store)) == len(requests)
        assert len(seen) >= 3 and any(name.endswith(f'-{killed[0]}') for name in seen)   # two workers, and the one that came for the dead
        assert list(shards.iterdir()) == []                                       # what is merged is not kept twice
        assert complete(engine, requests, store) == came
    some = requests[::len(requests) // 10]
    with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as alone, Store(tmp_path/'store.sqlite') as store:
        before = len(store)
        assert complete(alone, some, store) == came[::len(requests) // 10] and len(store) == before   # known on one machine, too


def test_an_evaluation_over_two_workers_is_that_of_one_process(two_nodes, tiny_model, tmp_path):
    problems, cfg = load_problems('test', 12).rows, EvalConfig(max_new_tokens=4)
    cluster = ClusterConfig(workers=2, rows_at_once=3, shards=str(tmp_path/'shards'))
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'many.sqlite') as store:
        spread = evaluate(engine, problems, cfg, store)
    with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as alone, Store(tmp_path/'one.sqlite') as store:
        assert evaluate(alone, problems, cfg, store) == spread


def test_too_small_a_cluster_is_one_clear_error(two_nodes, tiny_model, tmp_path):
    cluster = ClusterConfig(workers=3, shards=str(tmp_path/'shards'))
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        with pytest.raises(CgdError, match='cluster.workers: 3 with 1 CPU each are more than the 2 CPU'): complete(engine, ask(2), store)


def test_a_worker_with_another_engine_is_refused(two_nodes, tiny_model, tmp_path):
    cluster = ClusterConfig(workers=1, shards=str(tmp_path/'shards'))
    with open_cluster(f'hf:{tiny_model}', cluster, **OPTIONS) as engine, Store(tmp_path/'store.sqlite') as store:
        engine.identity = engine.identity | dict(dtype='bfloat16')
        with pytest.raises(Exception, match='dtype: bfloat16 here, float32 on'): complete(engine, ask(2), store)


def test_a_run_on_a_cluster_is_the_run_of_one_machine(two_nodes, tiny_model, tmp_path):
    alone = RunConfig(folder=str(tmp_path), name='alone', student=tiny_model, student_engine='hf', engine=EngineConfig(**OPTIONS), methods=(), benchmarks=('test:6',), eval=EvalConfig(max_new_tokens=4))
    spread = alone.model_copy(update=dict(name='spread', cluster=ClusterConfig(workers=2, rows_at_once=2, shards=str(tmp_path/'shards'))))
    run(alone)
    run(spread)
    assert spread.path('results.csv').read_text() == alone.path('results.csv').read_text()
    run(alone.model_copy(update=dict(cluster=spread.cluster)))   # where it runs is no other run
