needs sqlite3 || return
cat > uwsd.toml << 'END'
[server]
jobs_end_with_server = true

[audit]
origin = "jobs.example.org/vo"

[services.stack]
title = "Stack"
command = ["sh", "-c", "echo stacked > $UWS_RESULTS/stack.txt"]
results = [{ id = "image", path = "stack.txt" }]
END
uwsd serve > serving
for number in 1 2 3 4 5 6 7; do run stack; ended; done
curl -s -X DELETE "http://127.0.0.1:$PORT/stack/async/$(head -1 ~/.jobs)"
stop
cp -r var tampered
sqlite3 tampered/events.db "UPDATE event SET data = CAST(replace(CAST(data AS TEXT), '{', '{ ') AS BLOB) WHERE position = 4"
now
