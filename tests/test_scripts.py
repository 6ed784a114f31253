"Scripts for a GPU and for a Slurm cluster, as far as a CPU can tell: clean by shellcheck, and dry runs that go through; and benchmarks that use inner parts of the package"
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cgd.core import CgdError, read_table
from cgd.data import load_problems
from cgd.plan import RunConfig

ROOT = Path(__file__).parent.parent
SHELL = sorted(f for folder in ('scripts', 'scripts/slurm') for f in (ROOT/folder).iterdir() if f.suffix in ('.sh', '.sbatch'))


def run(*command, fails=False, **env) -> str:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, text=True, capture_output=True, env=os.environ | dict(PYTHON=sys.executable) | env)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize('script', SHELL, ids=lambda s: s.name)
def test_bash_reads_it(script):
    run('bash', '-n', script)


@pytest.mark.skipif(not shutil.which('shellcheck', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}'), reason='shellcheck is not installed')
def test_shellcheck_finds_nothing():
    run(shutil.which('shellcheck', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}'), '-x', *SHELL)


def test_slurm_dry_run_says_what_waits_for_what():
    said = run('scripts/slurm/submit.sh', '--dry-run', 'configs/cpu.yaml', 'demo', 4)
    jobs = [line.split() for line in said.splitlines() if line.startswith('sbatch')]
    assert [job[-1].split('/')[-1] for job in jobs] == ['draft.sbatch', 'teach.sbatch', 'merge.sbatch', 'train.sbatch', 'eval.sbatch']
    assert [next((w.split('=', 1)[1] for w in job if w.startswith('--dependency')), '') for job in jobs] == ['', 'aftercorr:<draft>', 'afterok:<teach>', 'afterok:<merge>', 'afterok:<train>']
    assert sum('--array=0-3' in job for job in jobs) == 2
    assert [next((w for w in job if w.startswith('--gpus')), '') for job in jobs] == ['--gpus=1', '--gpus=1', '', '--gpus=1', '--gpus=1']
    assert not (ROOT/'runs'/'demo-parts').exists()
    assert 'PARTS: expected a number' in run('scripts/slurm/submit.sh', 'configs/cpu.yaml', 'demo', 'four', fails=True)
    assert 'no such config' in run('scripts/slurm/submit.sh', '--dry-run', 'nowhere.yaml', 'demo', 2, fails=True)


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT/'scripts'/'slurm'))
    import jobs
    return jobs


def test_problems_are_dealt_each_once_with_all_their_columns(jobs, tmp_path):
    RunConfig(problems='val', n_problems=5, validation='test:2').save(tmp_path/'seven.yaml')
    shares = [read_table(file) for file in jobs.split_problems(tmp_path/'seven.yaml', 3, tmp_path/'shares')]
    assert [len(share) for share in shares] == [3, 2, 2]   # the validation set among them
    def by_id(rows): return sorted(rows, key=lambda r: r['problem_id'])
    assert by_id(r for share in shares for r in share) == by_id(load_problems('val', 5).rows + load_problems('test', 2).rows)
    with pytest.raises(CgdError, match='ask for fewer'): jobs.split_problems(tmp_path/'seven.yaml', 8, tmp_path/'too many')


def test_cards_of_each_stage(jobs, tmp_path):
    RunConfig().save(tmp_path/'one.yaml')
    assert jobs.stage_gpus(tmp_path/'one.yaml') == dict(draft=1, teach=1, train=1, eval=1)
    node = dict(teacher='vllm:some/70B', student_url='openai:some/8B@http://localhost:8000/v1', teacher_engine=dict(tensor_parallel_size=4),
                cluster=dict(workers=2), train=dict(processes=8))   # a served student takes no card to draft; each copy of the teacher takes four
    RunConfig.make(node).save(tmp_path/'node.yaml')
    assert jobs.stage_gpus(tmp_path/'node.yaml') == dict(draft=1, teach=8, train=8, eval=8)


def small_run(tiny_student, tmp_path, **more) -> Path:
    values = dict(student=tiny_student, student_engine='hf', problems='train', n_problems=8, methods=['dsft_refined', 'cgd'], benchmarks=['test:2'], engine=dict(dtype='float32'),
                  draft=dict(max_new_tokens=8), eval=dict(max_new_tokens=8), train=dict(backend='trl', epochs=1, batch_size=4, device_batch_size=4, max_length=1024, dtype='float32'))
    (tmp_path/'run.yaml').write_text(yaml.safe_dump(values | more))
    return tmp_path/'run.yaml'


def test_slurm_jobs_here_make_the_run_that_one_machine_makes(tiny_student, tmp_path, long):
    if not long: pytest.skip('seven commands: with --long')
    config = small_run(tiny_student, tmp_path, validation='val:2')
    env = dict(RUN_FOLDER=str(tmp_path/'slurm'), CGD=str(Path(sys.executable).parent/'cgd'))
    said = run('scripts/slurm/submit.sh', '--here', config, 'demo', 2, **env)
    assert 'part-1/store.sqlite: 5 rows added' in said
    run(env['CGD'], 'refine', config, '--folder', tmp_path, '--name', 'alone')
    ours, alone = (sorted(read_table(tmp_path/folder/'traces.parquet'), key=lambda r: r['row_id']) for folder in ('slurm/demo', 'alone'))
    assert ours == alone and all((tmp_path/'slurm'/'demo'/name).exists() for name in ('results.csv', 'ledger.csv'))


def test_gpu_scripts_refuse_a_machine_without_a_card():
    import torch
    if torch.cuda.is_available(): pytest.skip('there is one')
    for script in ('gpu_check.sh', 'gpu_study.sh'): assert 'no CUDA card' in run(f'scripts/{script}', fails=True)
    assert 'usage' in run('scripts/gpu_check.sh', '--dry', fails=True)


def test_cells_for_cuda_are_found_without_nbdev():
    assert 'nbs/40_costs.ipynb: cuda' in run(sys.executable, 'scripts/gpu.py', 'cells', '--list')


def test_the_study_is_ten_times_as_large(tmp_path):
    run(sys.executable, 'scripts/gpu.py', 'sweep', 'configs/studies/cpu_study.yaml', tmp_path/'gpu.yaml')
    cpu, gpu = (yaml.safe_load(Path(f).read_text()) for f in (ROOT/'configs'/'studies'/'cpu_study.yaml', tmp_path/'gpu.yaml'))
    assert gpu['run']['n_problems'] == 10 * cpu['run']['n_problems'] and gpu['run']['benchmarks'] == ['test', 'shifted']
    assert all(arm['seeds'] == [0, 1, 2, 3, 4] for arm in gpu['arms'].values()) and gpu['contrasts'] == cpu['contrasts']
    from cgd.sweep import SweepConfig, cells
    assert len(cells(SweepConfig.load(tmp_path/'gpu.yaml'))) == 5 * len(cpu['arms'])


def test_gpu_study_dry_run(tiny_student, tmp_path, long):
    if not long: pytest.skip('trains two students: with --long')
    folder = ROOT/'runs'/'gpu_study_dry'
    shutil.rmtree(folder, ignore_errors=True)   # of an earlier student
    try:
        run('scripts/gpu_study.sh', '--dry-run', CGD_STUDENT=tiny_student)
        header = (folder/'tables'/'gpu_scores.csv').read_text().splitlines()[0]
        assert header.endswith('card,versions') and 'no card: a dry run' in (folder/'tables'/'gpu_scores.csv').read_text()
        said = run('scripts/gpu_study.sh', '--dry-run', CGD_STUDENT=tiny_student)
        assert '==' in said and 'run 1 of' not in said   # it goes on: nothing is left to do
    finally: shutil.rmtree(folder, ignore_errors=True)


def test_gpu_check_dry_run(long):
    if not long: pytest.skip('trains twice: with --long')
    said = run('scripts/gpu_check.sh', '--dry-run')
    assert 'all passed' in said and 'losses differ by' in said
    folder = Path(said.rpartition('results are in ')[2].split()[0]).parent
    assert json.loads((folder/'gpu_check.json').read_text())['card'].startswith('no card')


def test_every_badge_opens_a_notebook_that_installs_cgd_in_colab():
    "The cell below a badge: a clone of the repository that settings.ini names, extras that it has, and the notebook's own folder"
    import configparser
    import nbformat
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini')
    settings = ini['DEFAULT']
    for path in [*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'nbs'/'studies').glob('*.ipynb')]:
        cells = nbformat.read(path, 4).cells
        below = [after.source for cell, after in zip(cells, cells[1:]) if cell.source.startswith('[![Open In Colab]')]
        if path.name == 'index.ipynb': continue   # the README, whose badges open the others
        assert len(below) == 1 and below[0].startswith('#| eval: false'), path.name
        assert f'git clone -q {settings["git_url"]} /content/cgd\n' in below[0] and f"os.chdir('/content/cgd/{path.parent.relative_to(ROOT)}')" in below[0], path.name
        extras = below[0].partition("'/content/cgd[")[2].partition(']')[0].split(',')
        assert len(extras) > 1 and all(f'{extra}_requirements' in settings for extra in extras), path.name


@pytest.mark.parametrize('script, words', [('train.py', ['--only', 'random', '--repeats', '1']), ('grpo.py', ['--turns', '1'])])
def test_a_benchmark_runs_on_a_tiny_model(script, words, long):
    "Both use parts of the package that have no place in its interface, and once had stopped with them"
    if script == 'grpo.py' and not long: pytest.skip('a minute: --long')
    done = subprocess.run([sys.executable, ROOT/'benchmarks'/script, '--tiny', *words], capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode and 'n = 1' in done.stdout, done.stderr[-2000:]
