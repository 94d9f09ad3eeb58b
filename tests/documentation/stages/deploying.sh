needs psql pg_dump systemd-analyze nginx || return
cat > uwsd.toml << END
data = "$ROOT_OF_PAGE/var/lib/uwsd"

[services.true]
title = "True"
command = ["true"]
END
etc=$ROOT_OF_PAGE/etc
mkdir -p "$ROOT_OF_PAGE"/{opt,srv,var/lib} "$etc/uwsd" "$etc/systemd/system"

# The database, as the page will have it made.
psql -qX "$DATABASE" -c "DROP DATABASE IF EXISTS uwsd" -c "DROP ROLE IF EXISTS uwsd" 2> notices
sed -n '/^```sql/,/^```/{/^```/!p}' "$ROOT/docs/deploying.md" > executed.sql
psql -qX -v ON_ERROR_STOP=1 "$DATABASE" -f executed.sql
place=${DATABASE#*@}
export DB=postgresql://uwsd@${place%/*}/uwsd
stands "postgresql://uwsd@db.example.org/uwsd?sslmode=verify-full&sslrootcert=/etc/uwsd/db.crt" "$DB"
stands postgresql://uwsd@db.example.org/uwsd "$DB"
for number in 1 2 3; do stands "node$number.example.org" "127.0.0.$number"; done

uwsd serve > serving
for number in 1 2 3; do run true; ended; done

# What pip installs is here already (tests/test_packaging.py has it do so).
python3() {
    mkdir -p "$3/bin"
    ln -s /bin/true "$3/bin/pip"
}

# There is no user of that name.
install() {
    local word words=()
    for word in "$@"; do [[ $word = --owner=* || $word = --group=* ]] || words+=("$word"); done
    command install "${words[@]}"
}

# There is no systemd that runs: units are looked at, and the server is ours.
systemctl() {
    case $1 in
        daemon-reload)
            rm -rf ~/units && cp -r "$etc/systemd/system" ~/units
            sed -i 's|/opt/uwsd/bin/uwsd|/bin/true|' $(find ~/units -type f)
            cd ~/units && command systemd-analyze verify --man=no --recursive-errors=no \
                $(find . -maxdepth 1 -name '*.service' -type f | sed 's/@/@8080/')
            local found=$?
            cd ~ && return $found
            ;;
        stop) run true && ended && stop ;;
    esac
}
systemd-analyze() {
    command systemd-analyze --no-pager "$1" --offline=true --root="$ROOT_OF_PAGE" "$2"
}

# It is for what may be lost.
pg_dump() {
    command pg_dump "$@" && psql -qX "$DB" -c "DROP SCHEMA uwsd CASCADE" 2> notices
}
