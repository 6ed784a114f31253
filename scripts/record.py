"Ask the real models again for the completions that teaching cells replay, and execute those notebooks on them."
import os, re, subprocess, sys
from pathlib import Path

os.chdir(Path(__file__).parent.parent/'nbs')
for notebook in sorted(Path().glob('*.ipynb')):
    recordings = set(re.findall(r'recorded:(recordings/[\w.-]+\.jsonl)', notebook.read_text()))
    if not recordings: continue
    print(f'{notebook}: {", ".join(sorted(recordings))}', flush=True)
    for path in map(Path, recordings): path.unlink(missing_ok=True)
    subprocess.run([Path(sys.executable).parent/'jupyter', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', str(notebook)],
                   check=True, env=os.environ | {'CGD_RECORD': '1'})
subprocess.run([Path(sys.executable).parent/'nbdev_clean'], check=True)
