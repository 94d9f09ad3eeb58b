needs openssl || return
has_run_a_job
uwsd audit checkpoint > note
VKEY=$(uwsd audit key)
