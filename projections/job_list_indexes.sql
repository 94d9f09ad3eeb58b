-- Positions, as row ids, come last in every index of their own accord.
CREATE INDEX IF NOT EXISTS job_by_time ON job (service, owner, created)
    WHERE NOT destroyed AND phase <> 'ARCHIVED';
CREATE INDEX IF NOT EXISTS job_by_phase ON job (service, owner, phase, created) WHERE NOT destroyed;
CREATE INDEX IF NOT EXISTS job_by_run_id ON job (service, owner, run_id, phase, created)
    WHERE NOT destroyed AND run_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_by_destruction ON job (destruction)
    WHERE NOT destroyed AND phase <> 'ARCHIVED' AND destruction IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_destroyed ON job (last) WHERE destroyed;
