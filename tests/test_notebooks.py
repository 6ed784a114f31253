"Every notebook passes, from its first cell to its last, as `nbdev_test` runs it; each in a process of its own"
from pathlib import Path

import pytest

import warm

ROOT = Path(__file__).parent.parent
NOTEBOOKS = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if not p.name.startswith('_') and '.ipynb_checkpoints' not in p.parts]


def run_notebook(path, flags, log):
    import os, sys
    from cgd.process import redirect_output
    from nbdev.config import get_config
    from nbdev.test import test_nb
    redirect_output(log)
    os.chdir(path.parent)
    skipped = get_config().tst_flags.split()
    passed, _ = test_nb(path, skip_flags=skipped, force_flags=flags, basepath=get_config().config_path)
    sys.stdout.flush()
    if not passed: sys.exit(1)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT/'nbs')))
def test_passes(notebook, tmp_path, long):
    process = warm.CONTEXT.Process(target=run_notebook, args=(notebook, ['slow'] if long else [], tmp_path/'log'))
    process.start()
    process.join()
    if process.exitcode: pytest.fail(f'{(tmp_path/"log").read_text()[-20_000:]}\nexit code {process.exitcode}', pytrace=False)
