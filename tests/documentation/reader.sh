# The shell of a reader: what all stages and pages have at hand.

# A server goes on while the next command is typed, as in another terminal.
uwsd() {
    if [ "$1" = serve ] && [[ "$*" != *--help* ]]; then
        exec {serving}< <(exec uwsd "$@" --port "$PORT" 2>> "$HOME/server.log")
        servers="$! $servers"
        read -r line <&$serving && echo "$line"
    else
        command uwsd "$@"
    fi
}

stop() {
    for server in $servers; do kill "$server"; wait "$server"; done
    servers=
}

# SERVICE and what curl is to send: a job, which the page knows by the next id that it types.
run() {
    job=$(curl -s -o "$HOME/refused" -w '%{redirect_url}' "${@:2}" -F PHASE=RUN "http://127.0.0.1:$PORT/$1/async")
    [ -n "$job" ] || { cat "$HOME/refused"; return 1; }
    echo "${job##*/}" >> "$HOME/.jobs"
}

ended() {
    for wait in 1 2 3 4 5; do
        curl -s "$@" "$job?WAIT=10" > "$HOME/document"
        grep -qE '>(COMPLETED|ERROR|ABORTED)<' "$HOME/document" && return
    done
    cat "$HOME/document"
    return 1
}

# A made-up trace of so many jobs, one an hour from November 1993 on, by three users.
trace() {
    echo "; UnixStartTime: 752112000"
    seq "$1" | awk '{ print $1, 3600 * $1, 0, 60 + $1 % 900, 4, -1, -1, 4, -1, -1, 1, $1 % 3, 1, 1, -1, -1, -1, -1 }'
}

# A server of one's own, which has run one job.
has_run_a_job() {
    printf '[services.true]\ntitle = "True"\ncommand = ["true"]\n' > uwsd.toml
    uwsd serve > serving
    run true
    ended
}

# A moment, which the page knows by the next time that it types.
now() {
    date -u +%FT%T.%6NZ >> "$HOME/.moments"
}

# Skips the page where a program, or a file, is missing (`NOT_HERE` in `reader.py`).
needs() {
    for thing in "$@"; do
        command -v "$thing" > found || [ -e "$thing" ] || { echo "there is no ${thing##*/}"; return 77; }
    done
}

# What the page calls one thing is another here.
stands() {
    echo "$1 $2" >> "$HOME/.places"
}

trap stop EXIT
