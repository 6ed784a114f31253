#!/usr/bin/env bash
# The client's types promise a ChatCompletion with a list of choices. openai 3.54.0 checks nothing of a 200: an error
# object with status 200 (as gateways send it) is a ChatCompletion whose choices are None, an HTML page is a str, a
# JSON list a list, null is None, and a content that is a number stays one. Only JSON cut short raises, as a bare
# JSONDecodeError: neither an APIError nor retried.
# It matters for drafting and judging through gateways: the error shows up lines later, as a TypeError about None, and
# the server's message is lost.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet openai==3.54.0
cat > expected <<'EXPECTED'
openai 3.54.0
{"error": {"message": "overloaded", "code": 529}} -> ChatCompletion, choices or content: None (asked 1 times)
<p>busy</p> -> str, choices or content: no such field (asked 1 times)
[1, 2] -> list, choices or content: no such field (asked 1 times)
null -> NoneType, choices or content: no such field (asked 1 times)
{"choices": [{"message": {"content": 12}}]} -> ChatCompletion, choices or content: 12 (asked 1 times)
{"cho -> raises JSONDecodeError, an APIError: False (asked 1 times)
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import http.server, threading
from openai import APIError, OpenAI

asked, reply = [], {}
class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        asked.append(1)
        self.send_response(200)
        self.send_header("content-type", reply["type"])
        self.end_headers()
        self.wfile.write(reply["body"])

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=3, timeout=20)
print("openai", version("openai"))
for body in [b'{"error": {"message": "overloaded", "code": 529}}', b"<p>busy</p>", b"[1, 2]", b"null",
             b'{"choices": [{"message": {"content": 12}}]}', b'{"cho']:
    asked.clear()
    reply.update(type="text/html" if body[:1] == b"<" else "application/json", body=body)
    try:
        got = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        choices = getattr(got, "choices", "no such field")
        if isinstance(choices, list): choices = repr(choices[0].message.content)
        seen = f"{type(got).__name__}, choices or content: {choices}"
    except Exception as error:
        seen = f"raises {type(error).__name__}, an APIError: {isinstance(error, APIError)}"
    print(body.decode(), "->", seen, f"(asked {len(asked)} times)")
server.shutdown()
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
