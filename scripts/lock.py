"""Write constraints.txt: the version of every package in this environment, engines apart (their versions are in settings.ini and requirements-cpu.txt),
and what torch and vLLM pin themselves, otherwise for a GPU."""
from importlib.metadata import distributions
from pathlib import Path

apart = {'cgd', 'pip', 'uv', 'wheel', 'apache-tvm-ffi', 'triton'} | {line.split('=')[0] for line in Path('requirements-cpu.txt').read_text().splitlines() if '==' in line}
versions = {d.metadata['Name'].lower().replace('_', '-'): d.version.split('+')[0] for d in distributions()}
apart = {name.replace('_', '-') for name in apart}
lines = [f'{name}=={version}' for name, version in sorted(versions.items()) if name not in apart]
Path('constraints.txt').write_text('# Versions that work together (Python 3.11 to 3.13); `make lock` writes this file.\n' + '\n'.join(lines) + '\n')
print(f'constraints.txt: {len(lines)} packages')
