"""What submit.sh has to know of a run before it submits its jobs.

    python scripts/slurm/jobs.py gpus CONFIG                 # the cards that a job of each stage uses, a line each
    python scripts/slurm/jobs.py split CONFIG PARTS FOLDER   # deals the problems to FOLDER/problems-0.jsonl, problems-1.jsonl ...
"""
import sys
from pathlib import Path

from cgd.core import CgdError, write_table
from cgd.plan import Plan, RunConfig


def split_problems(config: str, parts: int, folder: str | Path) -> list[Path]:
    """Deal a run's problems, and those of its validation set, to so many files.

    Row by row in turn, so that all shares are equally long and equally hard; each row keeps the id that it has in the whole, so that what is
    generated for a share is found by the whole run once the stores are merged.
    """
    plan = Plan(RunConfig.load(config))
    rows = plan.problems + plan.held_out
    if len(rows) < parts: raise CgdError(f'parts: {len(rows)} problems cannot be dealt to {parts} tasks; ask for fewer')
    return [write_table(rows[i::parts], Path(folder, f'problems-{i}.jsonl')) for i in range(parts)]


def stage_gpus(config: str) -> dict[str, int]:
    "How many GPUs a job of each stage uses; 0 where no model is loaded on this cluster at all"
    plan = Plan(RunConfig.load(config))
    cfg = plan.cfg
    def cards(engine): return engine.tensor_parallel_size*engine.pipeline_parallel_size*max(cfg.cluster.workers, 1)
    student = 0 if cfg.student_url else cards(cfg.engine)
    teacher = cards(cfg.teacher_engine) if any(t.loads_model for t in plan.teachers) else 0
    # a stage without a model of its own still opens the other's engine, whose rows it finds only on hardware of the same kind
    return dict(draft=student or min(teacher, 1), teach=teacher or min(student, 1), train=cfg.train.processes, eval=max(cards(cfg.engine), cfg.train.processes))


if __name__ == '__main__':
    try:
        match sys.argv[1:]:
            case ['gpus', config]: print(*(f'{stage} {n}' for stage, n in stage_gpus(config).items()), sep='\n')
            case ['split', config, parts, folder]: split_problems(config, int(parts), folder)
            case _: sys.exit(__doc__)
    except CgdError as e: sys.exit(f'jobs.py: {e}')
