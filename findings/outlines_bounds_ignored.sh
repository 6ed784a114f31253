#!/usr/bin/env bash
# A JSON schema with a minimum and a maximum is meant to hold a judge's score within them. outlines-core 0.2.14 turns
# it into a pattern without them, and without multipleOf and uniqueItems, and says nothing (an unknown structure such
# as "not" does raise): 500 and -3 fit a score from 1 to 5. Strings can't hold \u escapes, and numbers no 1e5 (1e+5
# they can).
# It matters for constrained decoding of verdicts: output that is called valid by construction fails the same schema.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet outlines-core==0.2.14 jsonschema==4.26.0
cat > expected <<'EXPECTED'
outlines-core 0.2.14 jsonschema 4.26.0
{"type": "integer", "minimum": 1, "maximum": 5} 4 can be written: True | valid: True
{"type": "integer", "minimum": 1, "maximum": 5} 500 can be written: True | valid: False
{"type": "integer", "minimum": 1, "maximum": 5} -3 can be written: True | valid: False
{"type": "number", "multipleOf": 0.5} 1.5 can be written: True | valid: True
{"type": "number", "multipleOf": 0.5} 1.3 can be written: True | valid: False
{"type": "number", "multipleOf": 0.5} 1e5 can be written: False | valid: True
{"type": "number", "multipleOf": 0.5} 1e+5 can be written: True | valid: True
{"type": "array", "items": {"type": "integer"}, "uniqueItems": true} [1, 2] can be written: True | valid: True
{"type": "array", "items": {"type": "integer"}, "uniqueItems": true} [1, 1] can be written: True | valid: False
{"type": "string"} "caf\u00e9" can be written: False | valid: True
not: Unsupported JSON Schema structure {"not":{"type":"string"}} 
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json, re
from jsonschema import Draft202012Validator
from outlines_core.json_schema import build_regex_from_schema

print("outlines-core", version("outlines-core"), "jsonschema", version("jsonschema"))
for schema, texts in [({"type": "integer", "minimum": 1, "maximum": 5}, ["4", "500", "-3"]),
                      ({"type": "number", "multipleOf": 0.5}, ["1.5", "1.3", "1e5", "1e+5"]),
                      ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, ["[1, 2]", "[1, 1]"]),
                      ({"type": "string"}, ['"caf\\u00e9"'])]:
    pattern = re.compile(build_regex_from_schema(json.dumps(schema)))
    for text in texts:
        print(json.dumps(schema), text, "can be written:", bool(pattern.fullmatch(text)),
              "| valid:", Draft202012Validator(schema).is_valid(json.loads(text)))
try: build_regex_from_schema(json.dumps({"not": {"type": "string"}}))
except ValueError as error: print("not:", str(error).splitlines()[0])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
