cat > uwsd.toml << 'END'
[server]
jobs_end_with_server = true

[services.sleep]
title = "Sleep"
command = ["sleep", "{seconds}"]
parameters = { seconds = { type = "float", default = 0 } }

[services.ipsc]
title = "Jobs of the iPSC/860"
command = ["false"]
END
now
uwsd serve > serving
run sleep -F seconds=600 -F RUNID=first
first=$job
curl -s -o executing "$first?WAIT=10&PHASE=QUEUED"
run sleep -F seconds=0.1 -F RUNID=second
now
curl -s -d PHASE=ABORT "$first/phase"
ended
# Two jobs that run at one time, and one before them.
cat > trace.swf << 'END'
; UnixStartTime: 752457600
1 0 0 60 4 -1 -1 4 -1 -1 1 7 1 1 -1 -1 -1 -1
2 39600 0 9000 8 -1 -1 8 -1 -1 1 7 1 2 -1 -1 -1 -1
3 39700 0 9000 8 -1 -1 8 -1 -1 1 7 1 2 -1 -1 -1 -1
4 39800 0 9000 8 -1 -1 8 -1 -1 1 7 1 2 -1 -1 -1 -1
END
uwsd import swf trace.swf --service ipsc > imported
