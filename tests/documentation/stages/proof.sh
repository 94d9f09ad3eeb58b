needs node || return
cp "$ROOT/docs/verify-history.mjs" .
cp -r "$ROOT/docs/proof" proof
cd proof
cat > uwsd.toml << 'END'
[server]
jobs_end_with_server = true

[audit]
origin = "jobs.example.org/vo"

[auth.proxy]
header = "X-Remote-User"
addresses = ["127.0.0.1"]

[auth.roles]
operator = ["grace"]

[services.stack]
title = "Stack"
command = ["sh", "-c", "echo stacked > stack.txt; sleep {seconds}"]
parameters = { seconds = { type = "float", default = 0 } }
results = [{ id = "image", path = "stack.txt" }]
END
uwsd serve > serving
# The service, the roles, and her log-in are on record before there are jobs.
curl -s -o listed -H "X-Remote-User: anna" "http://127.0.0.1:$PORT/stack/async"
until uwsd audit checkpoint | grep -qx 3; do :; done
run stack -H "X-Remote-User: anna"
ended -H "X-Remote-User: anna"
run stack -F seconds=600 -H "X-Remote-User: anna"
curl -s -o executing -H "X-Remote-User: anna" "$job?WAIT=10&PHASE=QUEUED"
curl -s -H "X-Remote-User: grace" -d PHASE=ABORT "$job/phase"
ended -H "X-Remote-User: anna"
uwsd audit checkpoint > first.checkpoint
