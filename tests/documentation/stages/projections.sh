needs sqlite3 || return
cat > uwsd.toml << 'END'
[services.true]
title = "True"
command = ["true"]
END
uwsd serve > serving
for number in 1 2 3; do run true; ended; done
stop
cp -r var spoiled
sqlite3 spoiled/projections/documents-*.db \
    "UPDATE document SET document = CAST(replace(CAST(document AS TEXT), 'COMPLETED', 'ERROR') AS BLOB)"
