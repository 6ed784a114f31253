"""Everything CI checks, in order: modules and README in sync with the notebooks, notebooks clean and easy to read,
notebooks and tests pass (pytest runs both: tests/test_notebooks.py).
`--all` adds slow cells and long tests. Ends with `N passed, M failed` (each sync check, each notebook and each pytest test counts as one)."""
import os, re, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

BIN, ALL, CORES = Path(sys.executable).parent, '--all' in sys.argv, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
WORKERS = min(CORES, 4)   # an engine wants some gigabytes
os.environ.setdefault('OMP_NUM_THREADS', str(max(1, CORES // WORKERS)))
os.chdir(Path(__file__).parent.parent)


def run(*command: str) -> tuple[int, str]:
    "Run a command of this environment, showing its output as it comes"
    process = subprocess.Popen([str(BIN/command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    lines = []
    for line in process.stdout: print(line, end='', flush=True); lines.append(line)
    return process.wait(), ''.join(lines)


def unchanged_by(folder: str, *command: str) -> bool:
    "Whether a command leaves the folder as it was; what it changes is shown, and kept"
    with TemporaryDirectory() as before:
        shutil.copytree(folder, f'{before}/{folder}')
        code, _ = run(*command)
        diff = subprocess.run(['diff', '-rq', '-x', '__pycache__', '-x', '.ipynb_checkpoints', f'{before}/{folder}', folder], capture_output=True, text=True)
        print(diff.stdout, end='')
        return code == 0 and diff.returncode == 0


def main() -> int:
    checks = {'modules in sync with notebooks': unchanged_by('cgd', 'nbdev_export')}
    with ThreadPoolExecutor() as pool:
        read, lint = (pool.submit(run, 'python', *words) for words in (('scripts/readme.py', '--check'), ('scripts/lint.py',)))
        checks['notebooks clean'] = unchanged_by('nbs', 'nbdev_clean')
    checks |= {'README in sync with index': read.result()[0] == 0, 'notebooks easy to read': lint.result()[0] == 0}
    for name, passed in checks.items(): print(f'{"ok" if passed else "FAILED"}: {name}')
    code, out = run('pytest', '-q', '-n', str(WORKERS), '--dist', 'loadfile', '--no-loadscope-reorder', *(['--long'] if ALL else []), 'tests')
    count = lambda word: sum(map(int, re.findall(rf'(\d+) {word}', out.splitlines()[-1] if out else '')))
    crashed = code != 0 and not count('failed') + count('errors?')   # a pytest that was killed or could not start counts as a failure
    passed = sum(checks.values()) + count('passed')
    failed = list(checks.values()).count(False) + count('failed') + count('errors?') + crashed
    print(f'{passed} passed, {failed} failed' + (f', {count("skipped")} skipped' if count('skipped') else ''))
    return failed > 0 or passed == 0


if __name__ == '__main__': sys.exit(main())
