needs jq || return
python - << 'END'
import sys, tomllib

sys.path.append(__import__("os").environ["ROOT"])
from tests.documentation.reader import toml

declared = tomllib.load(open("examples/uwsd.toml", "rb")) | {"data": "var"}
declared["uploads"] = {"allow_hosts": ["localhost"]}
declared["services"] |= tomllib.loads("""
[head]
title = "First lines"
command = ["head", "--lines={lines}", "{text}"]
results = [{ id = "lines", path = "-" }]
parameters = { text = { type = "file", required = true }, lines = { type = "int", default = 10 } }

[frames]
title = "Frames"
progress_prefix = "frame:"
command = ["sh", "-c", "echo frame: 0.25 frame 1 of 4; sleep 2.7; echo frame: 0.75 frame 3 of 4; sleep 2.7"]
""")
open("uwsd.toml", "w").write("".join(f"{name} = {toml(value)}\n" for name, value in declared.items()))
END
ln -s examples/data .
uwsd serve > serving
stands https://archive.example.org "http://localhost:$PORT"
list=http://127.0.0.1:$PORT/head/async
run head -F text=@LICENSE
ended
