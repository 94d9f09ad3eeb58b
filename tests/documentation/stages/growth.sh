has_run_a_job
curl -s -X DELETE "$job"
stop
now
