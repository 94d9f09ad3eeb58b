# Run a file in a shell of its own, which ends with the first command that fails.
( set -eo pipefail; source "$1" )
