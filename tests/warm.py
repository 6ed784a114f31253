"""A warm start: what tests and notebooks have cgd start in a process of its own comes from a fork server, which has torch, transformers
and TRL imported (8 to 15 s of processor each time). It is a process of its own as before, with the variables and the folder of the one
that starts it, and it ends with it. Started from nothing are Unsloth, which must be imported before the others, and whatever runs under
other variables for the Hub than the tests do. `cgd` on a command line starts all of its processes from nothing."""
import os, sys
from multiprocessing import context, forkserver, get_context, resource_tracker

SLOW = ['cgd.engines', 'torch', 'transformers.generation.utils', 'transformers.models.llama.modeling_llama', 'trl.trainer.sft_trainer', 'peft', 'datasets',
        'nbdev.test', 'vllm.entrypoints.llm', 'vllm.v1.worker.cpu_worker']


def _variables() -> dict[str, str]:
    "Those that libraries read when they are imported"
    return {k: v for k, v in os.environ.items() if k.startswith(('HF_', 'OMP_', 'LD_', 'PYTHON'))}


def _other_backend(frame) -> bool:
    "Whether a process is wanted by a function, of cgd or of its notebook, that trains by something else than TRL"
    while frame:
        if getattr(frame.f_locals.get('cfg'), 'backend', 'trl') != 'trl': return True
        frame = frame.f_back
    return False


class Process(context.ForkServerProcess):
    "As `spawn` would start it, but warm"
    def start(self):
        begin()
        self.variables = dict(os.environ)
        super().start()

    def _bootstrap(self, parent_sentinel=None):
        os.environ.clear()
        os.environ.update(self.variables)
        forkserver._forkserver.ensure_running = lambda: None   # its own processes come from the same server
        use()
        return super()._bootstrap(parent_sentinel)


class _Warm(context.ForkServerContext):
    Process = Process


CONTEXT = _Warm() if sys.platform == 'linux' else get_context('spawn')   # elsewhere a fork of such a process may crash


def use():
    "Have cgd start its processes warm in this process, and in those that it starts"
    import cgd.engines, cgd.process
    known = _variables()

    def get(method):
        warm = method == 'spawn' and _variables() == known and not _other_backend(sys._getframe(1))
        return CONTEXT if warm else get_context(method)
    for module in (cgd.engines, cgd.process): module.get_context = get


def begin():
    "Start the server, which imports while others do other things, or join the one that a process before this one has started"
    server = forkserver._forkserver
    if server._forkserver_address or sys.platform != 'linux': return
    if address := os.environ.get('CGD_TESTS_SERVER'):
        server._forkserver_address, server._forkserver_alive_fd = address, os.pipe()[1]
        server.ensure_running = resource_tracker.ensure_running
        return
    forkserver.set_forkserver_preload(SLOW)
    before = os.environ.get('HF_HUB_OFFLINE')
    os.environ['HF_HUB_OFFLINE'] = '1'   # as cgd tells its processes
    try: forkserver.ensure_running()
    finally: os.environ.pop('HF_HUB_OFFLINE') if before is None else os.environ.update(HF_HUB_OFFLINE=before)
    os.environ['CGD_TESTS_SERVER'] = server._forkserver_address
