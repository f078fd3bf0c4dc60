-- Users of a database: each has one of its roles, passwords of its own and a login of its own in PostgreSQL.
CREATE TABLE tenant_user (
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    -- Stands in the name of its login, where its own name must not. A branch has its parent's users under
    -- the same ids.
    id text NOT NULL CHECK (id ~ '^[a-z][a-z0-9]{11}$'),
    name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,31}$' AND name NOT IN ('admin', 'write', 'read')),
    role text NOT NULL CHECK (role IN ('admin', 'write', 'read')),
    -- Clients at once. NULL: no limit of its own.
    client_connections_max bigint CHECK (client_connections_max > 0),
    -- Of its login: to be made, there, to be removed (then the row goes, too).
    state text NOT NULL DEFAULT 'making' CHECK (state IN ('making', 'ready', 'deleting')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- As in credential. NULL: it came with a branch.
    created_by text,
    PRIMARY KEY (tenant_id, id)
);
-- One that is being deleted frees its name at once.
CREATE UNIQUE INDEX tenant_user_name ON tenant_user (tenant_id, name) WHERE state <> 'deleting';
CREATE INDEX tenant_user_due ON tenant_user (created_at) WHERE state <> 'ready';

-- Whose password. NULL: that of the role itself.
ALTER TABLE credential
    ADD COLUMN user_id text,
    ADD CONSTRAINT credential_user FOREIGN KEY (tenant_id, user_id) REFERENCES tenant_user ON DELETE CASCADE,
    ADD CONSTRAINT credential_user_kind CHECK (user_id IS NULL OR kind = 'password');
CREATE INDEX credential_of_user ON credential (tenant_id, user_id) WHERE user_id IS NOT NULL;
