-- A tenant that began as a copy of another one.
CREATE TABLE branch (
    tenant_id text PRIMARY KEY REFERENCES tenant ON DELETE CASCADE,
    -- Not a reference: a branch outlives its parent.
    parent_id text NOT NULL,
    schema_only boolean NOT NULL,
    -- How long one attempt may take, with its wait in the queue, and when it began.
    time_max_s integer NOT NULL CHECK (time_max_s > 0),
    begun_at timestamptz NOT NULL DEFAULT now(),
    -- Where the data was copied from, and how. Written before it is copied.
    source_pid text,
    path text CHECK (path IN ('wal_log', 'file_copy', 'file_clone', 'stream')),
    -- Why it was not the faster way.
    path_reason text,
    size_bytes bigint,
    held_ms bigint,
    copy_ms bigint,
    copied_at timestamptz,
    -- A reset is under way: what the branch had before, kept until the new copy is open.
    previous_pid text UNIQUE REFERENCES placement
);
CREATE INDEX branch_parent ON branch (parent_id);

-- 'copied': its database is there, closed, and still names its source.
ALTER TABLE placement DROP CONSTRAINT placement_stage_check;
ALTER TABLE placement ADD CONSTRAINT placement_stage_check CHECK (stage IN ('planned', 'logins', 'copied',
    'closed', 'opening', 'open', 'dropping', 'dropped'));
-- 'kept': what a branch had before its reset.
ALTER TABLE placement DROP CONSTRAINT placement_owner_check;
ALTER TABLE placement ADD CONSTRAINT placement_owner_check CHECK (owner IN ('pool', 'tenant', 'nobody', 'kept'));
