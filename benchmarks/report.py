"""How fast a large report opens, and how big it is.

    python benchmarks/report.py [--n 10000] [--rounds 5] [--longer 1] [--folder data/results/cpu]

The examples are the real texts of a run, repeated until there are n of them, each with an id and a number of its own (gzip looks back 32 KB, which is
less than the run's texts, so repetition saves little). `--longer 4` makes each text of four. Each round opens the file in a fresh page of headless Chromium. `usable` is when the list stands and can be filtered, in
seconds since the navigation began; `search` is from the last key to the filtered list, its pause of 0.15 s included; the first search also
makes the texts lower-case. Median and range of the rounds.
"""
import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
from cgd.core import read_table
from cgd.results import read_records
from cgd.report import examples, render_report
from test_report import CHROMIUM, FLAGS, many


def read_run(folder: Path) -> list[dict]:
    return examples(read_table(folder/'traces.parquet'), read_records(folder))


SEARCH = """words => new Promise(done => {
    const box = document.getElementById('search'), start = performance.now();
    const look = () => { if (document.getElementById('position').textContent === '1 of 1') done((performance.now() - start) / 1000); else requestAnimationFrame(look); };
    box.value = words; box.dispatchEvent(new Event('input')); requestAnimationFrame(look); })"""


def open_once(context, file: Path) -> dict:
    page = context.new_page()
    page.goto(file.as_uri() + '#tab=compare&a=base&b=cgd'); page.wait_for_selector('html[data-ready]', timeout=120_000)
    took = dict(usable=page.evaluate("performance.getEntriesByName('usable')[0].startTime") / 1000)
    took['first search'] = page.evaluate(SEARCH, '(4355)')
    page.fill('#search', ''); page.wait_for_timeout(2000)
    took['next search'] = page.evaluate(SEARCH, '(4242)')
    page.close()
    return took


def longer(found: list[dict], times: int) -> list[dict]:
    "Each text followed by those of other examples"
    def text(n, k, v): return '\n\n'.join([v['text'], *(e['voices'][k % len(e['voices'])]['text'] for e in (found[(n + 37*j) % len(found)] for j in range(1, times)))])
    return [dict(e, voices=[dict(v, text=text(n, k, v)) for k, v in enumerate(e['voices'])]) for n, e in enumerate(found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, default in (('n', int, 10_000), ('rounds', int, 5), ('longer', int, 1), ('folder', Path, Path(__file__).parent.parent/'data'/'results'/'cpu')): parser.add_argument(f'--{name}', type=kind, default=default)
    args = parser.parse_args()
    found = longer(many(read_run(args.folder), args.n), args.longer)
    start = time.perf_counter()
    html = render_report('large', '', {}, {}, found)
    letters = sum(len(v['text']) for e in found for v in e['voices'])
    print(f'{len(found):,} examples, {letters / 1e6:.1f} million characters written by models; made in {time.perf_counter() - start:.1f} s; file {len(html.encode()) / 1e6:.1f} MB')
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        file = Path(folder, 'report.html'); file.write_text(html, encoding='utf-8')
        context = p.chromium.launch_persistent_context(Path(folder, 'profile'), executable_path=CHROMIUM, headless=True, args=FLAGS)
        rounds = [open_once(context, file) for _ in range(args.rounds)]
        context.close()
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        print(f'{name:>12}: {statistics.median(values):.2f} s (median of {len(values)}; {min(values):.2f} to {max(values):.2f})')


if __name__ == '__main__': main()
