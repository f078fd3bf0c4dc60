-- Backups by schedule.

-- What somebody said of one database, and how far its schedule got. No row: as the installation, and nothing yet.
CREATE TABLE backup_schedule (
    tenant_id text PRIMARY KEY REFERENCES tenant ON DELETE CASCADE,
    -- Null: as the installation. 0: never, for ever.
    every_s bigint CHECK (every_s >= 0),
    keep integer CHECK (keep >= 0),
    keep_for_s bigint CHECK (keep_for_s >= 0),
    -- The time of the schedule for which its last backup was asked for. It only rises, so that of two processes one
    -- asks; null: none yet, or the last one was withdrawn.
    made_for timestamptz
);

-- However many processes there are, and whatever they believe.
CREATE UNIQUE INDEX backup_scheduled ON backup (tenant_id)
    WHERE kind = 'scheduled' AND state IN ('waiting', 'running');
