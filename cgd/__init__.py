"""Critique-Guided Distillation: a student answers, a teacher criticises and refines, the student learns from it

    import cgd
    t = cgd.distill('train:16', student='smollm2', teacher='oracle', store='my.sqlite')   # draft, critique, refine
    t.show(0)                       # side by side in a notebook, text in a terminal
    pairs = t.pairs('cgd')          # .to_hf() gives a datasets.Dataset
    student = cgd.train(pairs, 'smollm2', out='students/cgd')
    cgd.compare(cgd.evaluate('smollm2', 'test:50'), cgd.evaluate(student, 'test:50'))

Problems are a list of dicts (`prompt`, `reference`, and for the oracle teacher `solution`), a `datasets.Dataset`, a file, `hub:NAME`, or a set that
comes with cgd (`train`, `val`, `test`, `test_large`, `shifted`; `train:16` is the first 16). A model is `smollm2`, a folder or a Hub id; in front of it may stand
how it runs: `vllm:`, `hf:`, `openai:NAME@URL`, `recorded:FILE`. Settings are those of a run: `cgd.distill(..., draft=dict(n=4, temperature=.7),
teach=dict(detail='exact'))`, `cgd.train(..., epochs=1)`, `cgd.evaluate(..., max_new_tokens=512)`. What a model has written is kept in `store` and
not asked for again. Whatever you can mend is a `cgd.CgdError` of a line.

The whole run of a config, with its report, is `cgd run` on the command line, and `run(RunConfig(...))` of `cgd.pipeline`. The modules are articles
in `nbs/`; names of theirs are imported from them: `from cgd.stats import holm`.
"""
__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:   # for editors; at run time each name is loaded when it is first used
    from .api import Comparison, Evaluation, Student, Traces, compare, distill, evaluate, train
    from .core import CgdError
    from .engines import open_engine
    from .store import Store
    from .teacher import open_teacher

__all__ = ['distill', 'train', 'evaluate', 'compare', 'Traces', 'Student', 'Evaluation', 'Comparison', 'open_engine', 'open_teacher', 'Store', 'CgdError']

_ELSEWHERE = dict(open_engine='engines', open_teacher='teacher', Store='store', CgdError='core')   # the others are of api


def __getattr__(name: str):
    if name not in __all__: raise AttributeError(f'module {__name__!r} has no attribute {name!r}', name=name, obj=sys.modules[__name__])
    found = globals()[name] = getattr(import_module(f'{__name__}.{_ELSEWHERE.get(name, "api")}'), name)
    return found


def __dir__(): return sorted({*globals(), *__all__} - {'ModuleType', 'TYPE_CHECKING', 'import_module', 'sys'})


class _Package(ModuleType):
    "Keeps `cgd.train` and `cgd.evaluate` functions: Python sets an imported module as an attribute of its package, and these names are modules, too"
    def __setattr__(self, name, value):
        if not (name in __all__ and isinstance(value, ModuleType)): super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
