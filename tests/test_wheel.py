"The wheel carries configs and data: installed into an empty environment outside the repository, the command line works."
import os, subprocess, sys, sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def run(*command, cwd) -> str:
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{command}: {done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def environment(tmp_path_factory) -> Path:
    "A virtual environment with the built wheel; what cgd depends on is seen through a path, cgd's own checkout is not"
    folder = tmp_path_factory.mktemp('wheel')
    run('git', 'clone', '-q', REPOSITORY, folder/'source', cwd=folder) if (REPOSITORY/'.git').exists() else pytest.skip('not a git checkout')
    for changed in run('git', 'ls-files', '-mo', '--exclude-standard', cwd=REPOSITORY).split():   # as it is now, committed or not
        if (REPOSITORY/changed).is_file():
            (folder/'source'/changed).parent.mkdir(parents=True, exist_ok=True)
            (folder/'source'/changed).write_bytes((REPOSITORY/changed).read_bytes())
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder, folder/'source', cwd=folder)
    run(sys.executable, '-m', 'venv', '--without-pip', folder/'env', cwd=folder)
    python = folder/'env'/'bin'/'python'
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=folder).strip())
    (site/'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    run(sys.executable, '-m', 'pip', '-q', '--python', python, 'install', '--no-deps', '--no-index', '--force-reinstall', next(folder.glob('cgd-*.whl')), cwd=folder)
    return folder/'env'


def test_package_is_the_wheels(environment, tmp_path):
    where = Path(run(environment/'bin'/'python', '-c', 'import cgd.core as c; print(c.__file__)', cwd=tmp_path).strip())
    assert environment in where.parents
    assert where.with_name('py.typed').exists()   # type checkers read the hints of a package that says so


def test_configs_and_data_come_along(environment, tmp_path):
    out = run(environment/'bin'/'python', '-c', '''
from cgd.core import shipped
from cgd.data import load_problems
print(shipped('configs/cpu.yaml'), *(len(load_problems(name).rows) for name in ('train', 'val', 'test')))''', cwd=tmp_path).split()
    assert environment in Path(out[0]).parents
    assert out[1:] == ['2000', '200', '500']


def test_report_is_made_from_the_wheel(environment, tmp_path):
    out = run(environment/'bin'/'python', '-c', 'from cgd.report import render_report, vendored; print(len(vendored())); print(render_report("t", "c", {}, {}, []))', cwd=tmp_path)
    assert out.startswith('5\n') and 'Permission is hereby granted' in out and 'new Tabulator(' in out


def test_command_line(environment, tmp_path):
    assert 'doctor' in run(environment/'bin'/'cgd', '--help', cwd=tmp_path)
    assert 'n-problems' in run(environment/'bin'/'cgd', 'run', 'cpu', '--help', cwd=tmp_path)


def test_installed_run(environment, tmp_path):
    run(environment/'bin'/'cgd', 'pairs', 'cpu', '--n-problems', '2', '--student-engine', 'hf', '--draft.max-new-tokens', '8', cwd=tmp_path)
    assert (tmp_path/'runs'/'cpu'/'pairs'/'cgd.jsonl').read_text().count('\n') == 2
