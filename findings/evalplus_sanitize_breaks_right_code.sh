#!/usr/bin/env bash
# evalplus cuts the prose and the tests around a model's Python code before it is run; right code is expected to stay
# right. In 0.3.1 sanitize keeps imports, plain functions and classes, and assignments to one name, and of functions
# only those with a return. A helper with @lru_cache, one that yields, one that changes a list in place, a @dataclass,
# "low, high = 0, 10", and a loop or an item assignment that fills a table are dropped, and what calls them stays. A
# decorated solution goes whole, for an import remains. Of two functions of one name the first stays, where Python goes
# by the last, so a model that corrects itself is graded on what it took back. Nothing is raised or said.
# It matters for pass@1 and for rewards by tests, which fail right answers by their style, and for comparing students:
# a teacher's style can cost its student points.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5 tree-sitter==0.26.1 tree-sitter-python==0.25.0 tqdm==4.70.1 \
  tempdir==0.7.1 wget==3.2 appdirs==1.4.4 termcolor==3.3.0
venv/bin/pip install --quiet --no-deps evalplus==0.3.1
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
evalplus 0.3.1
plain helper       solve(5) 10, sanitized 10
cached helper      solve(5) 8, sanitized NameError: name 'ways' is not defined
generator          solve(5) [2, 3], sanitized NameError: name 'primes' is not defined
changed in place   solve(5) [2], sanitized NameError: name 'halve' is not defined
dataclass          solve(5) 5, sanitized NameError: name 'Point' is not defined
two names at once  solve(5) 5, sanitized NameError: name 'low' is not defined
table by a loop    solve(5) 25, sanitized None
table by items     solve(5) 7, sanitized None
cached solution    solve(5) 120, sanitized KeyError: 'solve'
corrected          solve(5) 10, sanitized 7
left of the cached solution: 'from functools import lru_cache'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from evalplus.sanitize import sanitize

cached = """from functools import lru_cache
@lru_cache(None)
def solve(n):
    return 1 if n < 2 else n * solve(n - 1)
"""
answers = {
    "plain helper": "def twice(n):\n    return 2 * n\n\ndef solve(n):\n    return twice(n)\n",
    "cached helper": """from functools import lru_cache
@lru_cache(None)
def ways(n):
    return 1 if n < 2 else ways(n - 1) + ways(n - 2)

def solve(n):
    return ways(n)
""",
    "generator": """def primes(n):
    for i in range(2, n):
        if all(i % j for j in range(2, i)):
            yield i

def solve(n):
    return list(primes(n))
""",
    "changed in place": """def halve(xs):
    xs[:] = [x // 2 for x in xs]

def solve(n):
    xs = [n]
    halve(xs)
    return xs
""",
    "dataclass": """from dataclasses import dataclass
@dataclass
class Point:
    x: int

def solve(n):
    return Point(n).x
""",
    "two names at once": "low, high = 0, 10\n\ndef solve(n):\n    return max(low, min(n, high))\n",
    "table by a loop": """squares = {}
for i in range(10):
    squares[i] = i * i

def solve(n):
    return squares.get(n)
""",
    "table by items": "table = {}\ntable[5] = 7\n\ndef solve(n):\n    return table.get(n)\n",
    "cached solution": cached,
    "corrected": """def solve(n):
    return n + 2

# No, twice the number was asked for:
def solve(n):
    return n * 2
""",
}

def result(code):
    space = {}
    try:
        exec(code, space)                                                  # the code above, nobody else's
        return space["solve"](5)
    except Exception as error: return f"{type(error).__name__}: {error}"

print("evalplus", version("evalplus"))
for name, code in answers.items():
    print(f"{name:18} solve(5) {result(code)}, sanitized {result(sanitize(code, entrypoint='solve'))}")
print("left of the cached solution:", repr(sanitize(cached, entrypoint="solve")))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
