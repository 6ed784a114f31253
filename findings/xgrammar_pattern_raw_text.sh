#!/usr/bin/env bash
# "pattern" in a JSON schema is about a string's value, wherever in it the pattern is found. xgrammar 0.2.8, vLLM's first
# choice for such schemas, holds it against the escaped text between the quotes, and against all of it. A pattern for
# \boxed{42} lets "\boxed{42}" be written, which JSON reads as a backspace and "oxed{42}", and not the right
# "\\boxed{42}"; one with quotes in it leads to text that is no JSON; one that asks for a digit allows nothing but a
# digit. No warning comes. llguidance 1.7.6 does all of it right.
# It matters for constrained decoding of mathematics: what is valid by construction does not match its own schema.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet xgrammar==0.2.8 llguidance==1.7.6 jsonschema==4.26.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
xgrammar 0.2.8 llguidance 1.7.6
{"type": "string", "pattern": "^\\\\boxed\\{\\d+\\}$"}
  "\\boxed{42}"       reads '\\boxed{42}'      valid: True    xgrammar: False llguidance: True
  "\boxed{42}"        reads '\x08oxed{42}'     valid: False   xgrammar: True  llguidance: False
{"type": "string", "pattern": "^\\$\\\\sqrt2\\$$"}
  "$\\sqrt2$"         reads '$\\sqrt2$'        valid: True    xgrammar: False llguidance: True
  "$\sqrt2$"          reads no JSON            valid: no JSON xgrammar: True  llguidance: False
{"type": "string", "pattern": "^\"[a-z]+\"$"}
  "\"yes\""           reads '"yes"'            valid: True    xgrammar: False llguidance: True
  ""yes""             reads no JSON            valid: no JSON xgrammar: True  llguidance: False
{"type": "string", "pattern": "\\d"}
  "7"                 reads '7'                valid: True    xgrammar: True  llguidance: True
  "7 apples"          reads '7 apples'         valid: True    xgrammar: False llguidance: True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
import llguidance, xgrammar
from jsonschema import Draft202012Validator

print("xgrammar", version("xgrammar"), "llguidance", version("llguidance"))
tokens = [bytes([b]) for b in range(256)] + [b"<end>"]                     # a token a byte, and the end
compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(tokens, stop_token_ids=[256]))
bytewise = llguidance.LLTokenizer("byte")

def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema))
    return all(matcher.accept_token(b) for b in text.encode()) and matcher.accept_token(256)

def by_llguidance(schema, text):
    matcher = llguidance.LLMatcher(bytewise, llguidance.LLMatcher.grammar_from_json_schema(schema))
    ids = bytewise.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

for pattern, texts in [(r"^\\boxed\{\d+\}$", [r'"\\boxed{42}"', r'"\boxed{42}"']),
                       (r"^\$\\sqrt2\$$", [r'"$\\sqrt2$"', r'"$\sqrt2$"']),
                       (r'^"[a-z]+"$', [r'"\"yes\""', '""yes""']),
                       (r"\d", ['"7"', '"7 apples"'])]:
    schema = json.dumps({"type": "string", "pattern": pattern})
    print(schema)
    for text in texts:
        try: value = json.loads(text)
        except json.JSONDecodeError: reads = valid = "no JSON"
        else: reads, valid = repr(value), str(Draft202012Validator(json.loads(schema)).is_valid(value))
        print(f"  {text:19} reads {reads:18} valid: {valid:7} xgrammar: {by_xgrammar(schema, text)!s:5} "
              f"llguidance: {by_llguidance(schema, text)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
