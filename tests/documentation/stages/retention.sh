needs sqlite3 || return
cat > uwsd.toml << 'END'
[audit]
origin = "jobs.example.org/vo"

[retention]
owners = "2y"
histories = "10y"
archive = "monthly"

[services.stack]
title = "Stack"
command = ["echo"]
END
# Months of the page are as long ago as they were when it was written.
this=$(date -u +%Y-%m)-01
for month in "2024-09 26" "2024-10 25" "2024-11 24" "2026-10 1" "2026-11 0"; do
    stands "${month% *}" "$(date -u -d "$this - ${month#* } months" +%Y-%m)"
done
stands /srv/uwsd/var/archives "$HOME/var/archives"
PYTHONPATH=$ROOT python "$ROOT/tests/documentation/stages/retention.py" "$(date -u -d "$this - 26 months" +%Y-%m)"
ln -s var/archives .
uwsd audit key > vkey
trace 2500 > trace.swf
uwsd import swf trace.swf --service stack --data ipsc > imported
uwsd projections rebuild usage --data ipsc > rebuilt
cp -r ipsc spoiled
sqlite3 spoiled/projections/usage-*.db "UPDATE usage SET jobs = jobs + 1 WHERE owner = 'user2'"
