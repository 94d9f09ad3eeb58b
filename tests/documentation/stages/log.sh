needs openssl || return
cat > uwsd.toml << 'END'
[services.true]
title = "True"
command = ["true"]
END
uwsd serve > serving
run true
ended
uwsd audit checkpoint > note
VKEY=$(uwsd audit key)
