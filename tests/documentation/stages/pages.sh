needs xsltproc || return
uwsd serve examples/uwsd.toml --data var > serving
job=$(curl -s -o refused -w '%{redirect_url}' -d ra=1 http://127.0.0.1:$PORT/cutout/async)
