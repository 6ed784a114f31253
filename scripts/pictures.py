"""Photograph pages for the README with Chromium: figures/trace.png from the tour's stored output, figures/report.png from the
page that `cgd report` makes of data/results/cpu. `scripts/pictures.py`; needs playwright and Chromium on the PATH."""
import shutil, sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from playwright.sync_api import sync_playwright

from cgd.pipeline import report

ROOT = Path(__file__).parent.parent
STYLE = '<style>body{margin:12px;font:15px/1.5 sans-serif;width:1080px} td,th{padding:6px 14px;border-top:1px solid #ccc}</style>'


def trace_page() -> str:
    "Draft, critique and refinement as the tour shows them"
    cell = next(c for c in nbformat.read(ROOT/'nbs'/'00_tour.ipynb', 4).cells if c.id == 'teach')
    return STYLE + next(o.data['text/html'] for o in cell.outputs if 'text/html' in o.get('data', {}))


VIEW = '#tab=compare&a=draft&b=refinement&show=gained'   # begins with the tour's problem


def photograph(browser, page_file: Path, name: str, height: int | None):
    "A page of 1100 pixels, whole or down to a height"
    page = browser.new_page(viewport=dict(width=1110, height=height or 100))
    page.goto(f'file://{page_file}{VIEW if height else ""}')
    if height:
        page.wait_for_selector('html[data-whole]')
        page.locator('#example').evaluate('pane => { pane.scrollTop = 250 }')   # down to the draft
    page.screenshot(path=ROOT/'figures'/f'{name}.png', full_page=height is None)
    page.close()


def main():
    if not (chromium := shutil.which('chromium') or shutil.which('google-chrome')): sys.exit('no Chromium on the PATH')
    with TemporaryDirectory() as folder, sync_playwright() as p:
        trace, run = Path(folder, 'trace.html'), Path(folder, 'cpu')
        trace.write_text(trace_page())
        shutil.copytree(ROOT/'data'/'results'/'cpu', run)
        report(run)
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        photograph(browser, trace, 'trace', None)
        photograph(browser, run/'report.html', 'report', 1400)
        browser.close()


if __name__ == '__main__': main()
