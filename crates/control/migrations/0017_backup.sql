-- Backups of tenants. They outlive the database they were made of, so nothing here refers to its row.

-- Keys of backups, each wrapped by the key of the installation. Without one, nothing opens the tenant's backups.
CREATE TABLE backup_key (
    tenant_id text PRIMARY KEY,
    wrapped bytea,
    made_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);

CREATE TABLE backup (
    id text PRIMARY KEY,
    tenant_id text NOT NULL,
    -- Whose it is: that of the database, as long as there is one.
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    tenant_name text NOT NULL,
    -- 'safety': made by a restore, of what it replaces.
    kind text NOT NULL CHECK (kind IN ('manual', 'safety', 'scheduled')),
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'ready', 'failed', 'deleting')),
    created_at timestamptz NOT NULL DEFAULT now(),
    begun_at timestamptz,
    finished_at timestamptz,
    took_ms bigint,
    -- Of what is stored, and its hash; of the dump in it.
    size_bytes bigint,
    sha256 bytea,
    dump_bytes bigint,
    tables integer,
    rows bigint,
    -- An upload that has to be ended should the process die.
    upload text,
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    -- When somebody has to look at it; null: it rests.
    due_at timestamptz DEFAULT now(),
    leased_by text,
    leased_until timestamptz,
    -- It is to be read through; what came of it the last time.
    verify_asked_at timestamptz,
    verified_at timestamptz,
    verify_error text,
    expires_at timestamptz
);
CREATE INDEX backup_tenant ON backup (tenant_id, created_at);
CREATE INDEX backup_project ON backup (project_id, created_at);
CREATE INDEX backup_due ON backup (due_at) WHERE due_at IS NOT NULL;

-- Databases that become what a backup holds.
CREATE TABLE restore (
    id text PRIMARY KEY,
    backup_id text NOT NULL,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    -- The database that becomes it.
    tenant_id text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('in_place', 'beside')),
    -- 'verifying': nothing was touched yet. 'filling': a new place is being filled.
    state text NOT NULL CHECK (state IN ('verifying', 'filling', 'done', 'failed')),
    -- Made of what is replaced, before anything else; null: none was wanted.
    safety_id text,
    wants_safety boolean NOT NULL,
    error_code text,
    error text,
    begun_at timestamptz NOT NULL DEFAULT now(),
    time_max_s integer NOT NULL CHECK (time_max_s > 0),
    ended_at timestamptz,
    took_ms bigint,
    -- What the database had before, kept until the new place is open.
    previous_pid text UNIQUE REFERENCES placement,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    leased_by text,
    leased_until timestamptz
);
CREATE UNIQUE INDEX restore_under_way ON restore (tenant_id) WHERE state IN ('verifying', 'filling');
CREATE INDEX restore_due ON restore (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX restore_backup ON restore (backup_id);
