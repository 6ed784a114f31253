"The package's own functions: in every order of imports, lazily, typed, as ten lines of a script; and `make demo`"
import os, subprocess, sys, textwrap
from pathlib import Path

import psutil, pytest

import cgd
from cgd.api import _pairs_of
from cgd.core import CgdError
from cgd.data import load_problems

ROOT = Path(__file__).parent.parent
BEFORE = ('import cgd', 'import cgd.train', 'import cgd.evaluate, cgd.pipeline', 'from cgd.train import fit', 'from cgd.evaluate import EvalConfig',
          'from cgd import train', 'from cgd import evaluate, compare', 'from cgd import *', 'import importlib; importlib.import_module("cgd.train")',
          'import cgd.api', 'from cgd.api import train', 'import cgd; cgd.train; import cgd.train')


def python(code: str, **env) -> str:
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(ROOT)} | env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_functions_stay_functions_in_every_order_of_imports():
    "A module that is imported is set as an attribute of its package, and these have the names of modules"
    python(f'''
        import sys, types
        for before in {BEFORE}:
            for name in [n for n in sys.modules if n.partition('.')[0] == 'cgd']: del sys.modules[name]
            exec(before, {{}})
            import cgd
            for again in range(2):
                for name in cgd.__all__: assert not isinstance(getattr(cgd, name), types.ModuleType), (before, name)
                assert cgd.train.__module__ == cgd.evaluate.__module__ == cgd.compare.__module__ == 'cgd.api', before
                from cgd.train import fit
                from cgd.evaluate import summarise
                import cgd.train, cgd.evaluate, cgd.stats
                assert isinstance(sys.modules['cgd.train'], types.ModuleType) and isinstance(cgd.stats, types.ModuleType), before''')


def test_names_load_lazily():
    "The package loads nothing that takes time, knows its names before it has loaded them, and teaches"
    out = python('''
        import sys
        import cgd
        assert {*cgd.__all__} <= {*dir(cgd)}
        assert not {'torch', 'transformers', 'pandas', 'pydantic', 'cgd.api', 'cgd.core'} & {*sys.modules}
        assert cgd.CgdError.__module__ == 'cgd.core' and 'cgd.api' not in sys.modules   # no more than is asked for
        help(cgd)
        assert 'torch' not in sys.modules''')
    for word in ("cgd.distill('train:16'", 'cgd.compare(', 'distill(problems', 'train(pairs', 'class Traces'): assert word in out
    with pytest.raises(AttributeError, match='has no attribute') as error: cgd.destill
    assert error.value.name == 'destill' and error.value.obj is cgd   # from which Python finds what was meant


def test_ten_lines(tiny_student, tmp_path, monkeypatch, capsys):
    "As the README has them, with a student of random weights"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(sys, 'ps1', raising=False)
    model, little = f'hf:{tiny_student}', dict(max_new_tokens=8, engine=dict(dtype='float32'))
    t = cgd.distill(load_problems('train', 3), student=model, teacher='oracle', store='my.sqlite', draft=dict(max_new_tokens=8))
    assert t.show(0)._repr_html_().count('<b>') == 4 and 'refinement: right' in capsys.readouterr().out
    assert [r['refinement_grade'] for r in t] == ['right']*3 and Path('my.sqlite').exists()
    pairs = t.pairs('cgd')
    assert pairs.to_hf()[0]['completion'] == pairs.rows[0]['completion']
    student = cgd.train(pairs, model, out='students/cgd', epochs=1, dtype='float32', progress=False)
    assert Path(student, 'model.safetensors').exists() and Path(student.adapter, 'adapter_config.json').exists() and '3 pairs' in repr(student)
    with pytest.raises(CgdError, match='an adapter alone'): cgd.evaluate('students/cgd', 'test:2')
    before, after = cgd.evaluate(model, 'test:2', **little), cgd.evaluate(student, 'test:2', **little)
    assert 'tuned by cgd on test:2, 2 problems' in repr(after)
    assert Path('runs/store.sqlite').exists() and '[' in repr(before)
    found = cgd.compare(before, after)
    assert (found.n, found.difference) == (2, 0.) and 'McNemar: p = 1' in capsys.readouterr().out
    again = cgd.train(pairs, model, out='students/cgd', epochs=1, dtype='float32', progress=False)   # reads what is there
    assert again.record == student.record and cgd.evaluate(student, 'test:2', **little).records == after.records


def test_engines_and_teachers_close_at_exit(tiny_model, tmp_path):
    "A script that opens a teacher's engine and leaves it open ends, and so does the engine; nor does it need a main block"
    (tmp_path/'left_open.py').write_text(textwrap.dedent(f'''
        import multiprocessing
        import cgd
        from cgd.teacher import TeacherConfig
        store = cgd.Store({str(tmp_path/"s.sqlite")!r})
        teacher = cgd.open_teacher('hf:{tiny_model}', cfg=TeacherConfig(max_new_tokens=2), dtype='float32')
        teacher.direct([dict(row_id='a', problem_id='a', prompt='1+1?')], store)
        print(*[child.pid for child in multiprocessing.active_children()])'''))
    done = subprocess.run([sys.executable, tmp_path/'left_open.py'], capture_output=True, text=True, timeout=120, env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and not done.stderr
    assert not any(psutil.pid_exists(int(pid)) for pid in done.stdout.split())


def test_demo(tmp_path):
    "It needs no model, says on its page what it is, and ends by opening that"
    (tmp_path/'browser').write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    (tmp_path/'browser').chmod(0o755)
    def demo(**env):
        quiet = {k: v for k, v in os.environ.items() if k not in ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER')} | {'PYTHONPATH': str(ROOT)}
        return subprocess.run([sys.executable, ROOT/'scripts'/'demo.py'], cwd=tmp_path, capture_output=True, text=True, env=quiet | env)
    done, page = demo(BROWSER=f'{tmp_path}/browser'), tmp_path/'runs'/'demo'/'report.html'
    assert done.returncode == 0, done.stderr
    assert (tmp_path/'opened').read_text().strip() == page.as_uri() and done.stdout.endswith(f'opened {page}\n')
    assert 'A replay: all texts are those of the run in data/results/cpu' in page.read_text()
    assert '16 traces of smollm2, taught by expert (solved)' in done.stdout and 'cgd - base' in done.stdout
    assert sorted(p.name for p in (page.parent/'records').iterdir()) == [f'{m}.test.parquet' for m in ('base', 'cgd', 'dsft_refined')]


def test_a_chain_has_no_pairs_that_forget_its_first_stage():
    with pytest.raises(CgdError, match='cgd-then-dsft_refined: is trained in stages; train on the pairs of cgd'): _pairs_of([], 'cgd-then-dsft_refined', {})
