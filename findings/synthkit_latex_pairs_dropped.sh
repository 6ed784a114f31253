#!/usr/bin/env bash
# synthetic-data-kit has a judge rate question-answer pairs, a batch at a time, and keeps those at or above a threshold.
# One expects each pair of a judge's valid JSON to get its rating and to be kept as it was. In 0.0.5 backslash-n, -r and
# -t are replaced before the JSON is read. So \theta, \times, \neq or \right in one answer breaks the array, and the
# first pair alone is rated; the others are gone without a word. A line break inside an answer becomes one space, and
# code loses its indentation. If every answer has LaTeX the JSON of which the judge failed to escape, each pair gets the
# last one's rating. And a kept pair has the judge's words: what the judge cut short stays short.
# It matters for filtering mathematics and code: most of a good batch is lost, bad pairs are kept, answers are altered,
# and the printed average is that of the few.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet pyyaml==6.0.3 requests==2.32.5 rich==14.2.0
venv/bin/pip install --quiet --no-deps synthetic-data-kit==0.0.5
export HOME="$dir" NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
cat > expected <<'EXPECTED'
synthetic-data-kit 0.0.5, ratings 9, 3, 8, 9, 10, threshold 7
plain            kept 1 3 4 5, average 7.8
\pi in 2         kept 1 3 4 5, average 7.8
\theta in 2      kept 1, average 9.0
\neq in 2        kept 1, average 9.0
\right in 2      kept 1, average 9.0
\times in all    kept 1, average 9.0
not escaped      kept 1 2 3 4 5, average 10.0
code in 1        kept 1 3 4 5, average 7.8
  before 'def f(x):\n    if x:\n        return 1'
  after  'def f(x): if x: return 1'
judge cuts 1     kept 1 3 4 5, average 7.8
  before '4, for 2 + 2 = 4.'
  after  '4, ...'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import contextlib, http.server, io, json, threading
from synthetic_data_kit.core.curate import curate_qa_pairs

class Judge(http.server.BaseHTTPRequestHandler):                            # answers as a vLLM server does
    def do_GET(self): self.send({})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send(dict(choices=[dict(message=dict(content=self.server.reply))]))
    def send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

server = http.server.HTTPServer(("127.0.0.1", 0), Judge)
threading.Thread(target=server.serve_forever, daemon=True).start()

def curated(name, answers, change=lambda reply: reply, show=False):
    pairs = [dict(question=f"Question {i}?", answer=a) for i, a in enumerate(answers, 1)]
    rated = [dict(pair, rating=r) for pair, r in zip(pairs, (9, 3, 8, 9, 10))]
    server.reply = change(json.dumps(rated))
    with open("pairs.json", "w") as file: json.dump(dict(qa_pairs=pairs), file)
    with contextlib.redirect_stdout(io.StringIO()):
        curate_qa_pairs("pairs.json", "out/kept.json", provider="vllm", threshold=7,
                        api_base=f"http://127.0.0.1:{server.server_port}")
    with open("out/kept.json") as file: result = json.load(file)
    kept = result["qa_pairs"]
    print(f"{name:16} kept", *(p["question"][9] for p in kept), end=f", average {result['metrics']['avg_score']}\n")
    if show: print(f"  before {answers[0]!r}\n  after  {kept[0]['answer']!r}")

print("synthetic-data-kit", version("synthetic-data-kit") + ", ratings 9, 3, 8, 9, 10, threshold 7")
plain = ["4, for 2 + 2 = 4.", "5", "6", "7", "8"]
curated("plain", plain)
for command in (r"\pi", r"\theta", r"\neq", r"\right"):
    curated(f"{command} in 2", [plain[0], f"${command}$", *plain[2:]])
curated(r"\times in all", [rf"$2 \times {a}$" for a in "45678"])
curated("not escaped", [rf"$\sin {a}$" for a in "45678"], lambda reply: reply.replace(r"\\", "\\"))
curated("code in 1", ["def f(x):\n    if x:\n        return 1", *plain[1:]], show=True)
curated("judge cuts 1", plain, lambda reply: reply.replace("for 2 + 2 = 4.", "..."), show=True)
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
