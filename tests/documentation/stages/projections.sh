needs sqlite3 || return
has_run_a_job
stop
# Enough for a second to tell how fast it is.
trace 2500 > trace.swf
uwsd import swf trace.swf --service true > imported
uwsd projections rebuild > rebuilt
cp -r var spoiled
sqlite3 spoiled/projections/documents-*.db \
    "UPDATE document SET document = CAST(replace(CAST(document AS TEXT), 'COMPLETED', 'ERROR') AS BLOB)"
