#!/usr/bin/env bash
# The README says that 429 and 5xx "are all retried by default". Since pull request 3555 (on purpose, but not in the
# README) a Retry-After above 120 seconds ends it: openai 3.54.0 asks once, whatever max_retries is, and says so at
# debug level only. A server that names no wait is asked again within a second, and a spent quota like any other 429.
# It matters for long batches: the server that is most exact about its pause (a window of minutes) ends the run, while
# one that will never answer is asked again.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet openai==3.54.0
cat > expected <<'EXPECTED'
openai 3.54.0 max_retries 3
429 {'retry-after': '1'} None -> asked 4 times
429 {'retry-after': '120.5'} None -> asked 1 times
503 {'retry-after': '300'} None -> asked 1 times
429 {'retry-after-ms': '1'} insufficient_quota -> asked 4 times
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import http.server, json, threading
from openai import APIStatusError, OpenAI

asked, reply = [], {}
class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        asked.append(1)
        self.send_response(reply["status"])
        for name, value in reply["headers"].items(): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(reply["body"]).encode())

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=3, timeout=20)
print("openai", version("openai"), "max_retries 3")
spent = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
for status, headers, body in [(429, {"retry-after": "1"}, {}), (429, {"retry-after": "120.5"}, {}),
                              (503, {"retry-after": "300"}, {}), (429, {"retry-after-ms": "1"}, spent)]:
    asked.clear()
    reply.update(status=status, headers={"content-type": "application/json", **headers}, body=body)
    try: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    except APIStatusError as error: print(status, headers, error.code, "-> asked", len(asked), "times")
server.shutdown()
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
