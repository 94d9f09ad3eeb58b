needs sqlite3 jq || return
cat > uwsd.toml << 'END'
[audit]
origin = "uws.example.org"

[auth.proxy]
header = "X-Remote-User"
addresses = ["127.0.0.1"]

[auth.roles]
auditor = ["root"]

[server]
jobs_end_with_server = true

[services.echo]
title = "Echo"
command = ["echo"]

[services.statistics]
title = "Statistics"
command = ["sleep", "600"]
END
cat > imaging.toml << END
[audit]
origin = "uws.example.org"

[auth]
users = "users.json"

[server]
port = $PORT

[services.cutout]
title = "Cutout"
command = ["imcopy"]
END
uwsd serve > serving
run echo -H "X-Remote-User: ada"
ended -H "X-Remote-User: ada" || return
curl -s -X DELETE -H "X-Remote-User: ada" "$job"
uwsd audit export --until "$(date -u +%FT%T.%6NZ)" -o first-half.gz > exported
uwsd queue pause echo > paused
for name in grace ada; do run statistics -H "X-Remote-User: $name"; done
run echo -H "X-Remote-User: bob"
printf '; UnixStartTime: 752457600\n1 0 0 60 4 -1 -1 4 -1 -1 1 7 1 1 -1 -1 -1 -1\n' | gzip > trace.swf.gz
