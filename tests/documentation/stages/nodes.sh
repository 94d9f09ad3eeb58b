cat > uwsd.toml << END
data = "$ROOT_OF_PAGE/var/lib/uwsd"

[services.true]
title = "True"
command = ["true"]
END
mkdir -p "$ROOT_OF_PAGE/nfs/uwsd" "$ROOT_OF_PAGE/var/lib"
stands postgresql://uwsd@db.example/uwsd "$DATABASE"
uwsd serve --data var > serving
run true; ended
run true; ended
stop
# The node that is there, and the one that begins.
ln -s "$HOME" "$ROOT_OF_PAGE/alpha"
eval "by_reader_$(declare -f uwsd)"
uwsd() {
    if [ "$2" = fetch ]; then command uwsd "$@" --data "$HOME/beta"; else by_reader_uwsd "$@"; fi
}
