-- Restore drills: what a backup holds is made a database that nobody can reach, compared, timed and dropped.

-- 'drill': of no tenant, so that no route leads there.
ALTER TABLE placement DROP CONSTRAINT placement_owner_check;
ALTER TABLE placement ADD CONSTRAINT placement_owner_check
    CHECK (owner IN ('pool', 'tenant', 'nobody', 'kept', 'drill'));

CREATE TABLE drill (
    id text PRIMARY KEY,
    backup_id text NOT NULL,
    tenant_id text NOT NULL,
    tenant_name text NOT NULL,
    by_schedule boolean NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'passed', 'failed')),
    -- Where it is done; null when nothing is left there.
    pid text UNIQUE REFERENCES placement ON DELETE SET NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    -- Of the attempt that is measured.
    begun_at timestamptz,
    ended_at timestamptz,
    -- From the first byte that is read to the end of the comparison.
    took_ms bigint,
    -- Of the backup.
    size_bytes bigint,
    dump_bytes bigint,
    tables integer,
    rows bigint,
    error_code text,
    error text,
    time_max_s integer NOT NULL CHECK (time_max_s > 0)
);
-- One at a time: each takes the room and the time of a database.
CREATE UNIQUE INDEX drill_running ON drill ((true)) WHERE state = 'running';
CREATE INDEX drill_tenant ON drill (tenant_id, asked_at);
CREATE INDEX drill_asked ON drill (asked_at);
