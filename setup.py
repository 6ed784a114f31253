"Packaging from settings.ini: each `NAME_requirements` key is the extra NAME; configs/ and data/ travel inside the package."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini')
cfg = ini['DEFAULT']
extras = {key.removesuffix('_requirements'): value.split() for key, value in cfg.items() if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], url=cfg['git_url'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'], license='Apache-2.0',
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=[*find_packages(include=['cgd', 'cgd.*']), 'cgd._shipped.configs', 'cgd._shipped.data'],
    package_dir={'cgd._shipped.configs': 'configs', 'cgd._shipped.data': 'data'},
    package_data={'cgd': ['assets/*', 'py.typed'], 'cgd._shipped.configs': ['**/*.yaml'], 'cgd._shipped.data': ['*.jsonl', '*.md', 'expert/*']},
    python_requires=f'>={cfg["min_python"]}', install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['cgd=cgd._modidx:d']},
    zip_safe=False,
)
