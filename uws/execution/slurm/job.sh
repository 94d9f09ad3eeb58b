#!/bin/bash
# What Slurm runs on a node for a job: the program, unless somebody has the record of this submission already.
#     job.sh RECORD LOGS PROGRAM [ARGUMENT ...]
# The record tells, in one line of JSON, when the program began (ns since 1970) and where; in the end, its status, and
# whether Slurm has told it to end.
# The job's PATH is for the program alone.
given=$PATH PATH=/usr/local/bin:/usr/bin:/bin
record=$1 logs=$2 draft=$1.$SLURM_JOB_ID
shift 2
told=false
trap told=true TERM # Slurm sends it to the program, too: this waits for what comes of that

tell() { (umask 077 && printf '{"job":"%s","host":"%s","began":%s%s}\n' "$SLURM_JOB_ID" "$SLURMD_NODENAME" "$began" "$1" >"$draft"); }

began=$(date +%s%N)
tell "" || exit
# That link(2) fails does not say, on a shared file system, that there is no link.
ln "$draft" "$record" 2>/dev/null
[ "$draft" -ef "$record" ] || { rm -f "$draft"; exit 79; } # _TAKEN in following.py
rm -f "$draft" "$logs/stdout" "$logs/stderr"

if (PATH=$given; type -P -- "$1") >/dev/null; then
    (PATH=$given; exec "$@") </dev/null >"$logs/stdout" 2>"$logs/stderr"
    status=$?
else
    echo "$1: there is no such program on $SLURMD_NODENAME" >"$logs/stderr"
    status=127
fi
ended=$(date +%s%N)
LC_ALL=C
times >"$draft.times"
{ read -r; read -r user system; } <"$draft.times"
tell ",\"ended\":$ended,\"status\":$status,\"told\":$told,\"used\":\"$user $system\"" && mv -f "$draft" "$record"
rm -f "$draft.times"
exit "$status"
