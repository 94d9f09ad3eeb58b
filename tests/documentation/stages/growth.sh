cat > uwsd.toml << 'END'
[services.true]
title = "True"
command = ["true"]
END
uwsd serve > serving
run true
ended
curl -s -X DELETE "$job"
stop
now
