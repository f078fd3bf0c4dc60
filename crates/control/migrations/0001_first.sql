-- The nouns of the control plane. Rules that must hold whatever the code does are written here.

CREATE TABLE project (
    id text PRIMARY KEY CHECK (id ~ '^prj_[a-z][a-z0-9]{11}$'),
    kind text NOT NULL CHECK (kind IN ('operator', 'anonymous')),
    anonymous_id text UNIQUE CHECK (anonymous_id ~ '^anon_[a-z][a-z0-9]{11}$'),
    anonymous_secret_hash bytea CHECK (octet_length(anonymous_secret_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'anonymous') = (anonymous_id IS NOT NULL)),
    CHECK ((anonymous_id IS NULL) = (anonymous_secret_hash IS NULL))
);
CREATE UNIQUE INDEX project_one_operator ON project (kind) WHERE kind = 'operator';

-- Where data lies: one row for every physical id. Nothing is made or removed on a node but for a
-- row of this table.
CREATE TABLE placement (
    pid text PRIMARY KEY CHECK (pid ~ '^[a-z][a-z0-9]{11}$'),
    node text NOT NULL,
    isolation text NOT NULL DEFAULT 'database' CHECK (isolation = 'database'),
    -- 'nobody': it is to be removed.
    owner text NOT NULL CHECK (owner IN ('pool', 'tenant', 'nobody')),
    -- How far it got. The server may be one step ahead of this, never behind.
    stage text NOT NULL DEFAULT 'planned'
        CHECK (stage IN ('planned', 'logins', 'closed', 'opening', 'open', 'dropping', 'dropped')),
    -- When a pass looks at it next. NULL: it is where it should be.
    due_at timestamptz DEFAULT now(),
    -- Rises when somebody asks for something else, so that a pass does not rest on old news.
    version bigint NOT NULL DEFAULT 0,
    leased_by text,
    leased_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    unsettled_since timestamptz DEFAULT now(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((leased_by IS NULL) = (leased_until IS NULL))
);
CREATE INDEX placement_due ON placement (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX placement_pool ON placement (node, created_at) WHERE owner = 'pool';

CREATE SEQUENCE change_generation;

CREATE TABLE tenant (
    id text PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{11}$'),
    project_id text NOT NULL REFERENCES project,
    name text NOT NULL CHECK (name ~ '^[a-z0-9_-]{1,63}$' AND name !~ '__'),
    state text NOT NULL CHECK (state IN ('CREATING', 'CLONING', 'ACTIVE', 'SUSPENDED',
        'DISABLING', 'DISABLED', 'CREATE_FAILED')),
    state_reason text,
    pid text NOT NULL UNIQUE REFERENCES placement,
    parent_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- First time it could be used.
    activated_at timestamptz,
    deleted_at timestamptz,
    purge_after timestamptz,
    generation bigint NOT NULL DEFAULT nextval('change_generation'),
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((state IN ('DISABLING', 'DISABLED')) = (deleted_at IS NOT NULL)),
    CHECK ((deleted_at IS NULL) = (purge_after IS NULL)),
    CHECK (state <> 'ACTIVE' OR activated_at IS NOT NULL)
);
-- A deleted tenant frees its name at once.
CREATE UNIQUE INDEX tenant_name ON tenant (project_id, name)
    WHERE state NOT IN ('DISABLING', 'DISABLED');
CREATE INDEX tenant_project ON tenant (project_id, created_at, id);
CREATE INDEX tenant_changed ON tenant (changed_at);

CREATE TABLE credential (
    id text PRIMARY KEY CHECK (id ~ '^crd_[a-z][a-z0-9]{11}$'),
    kind text NOT NULL CHECK (kind IN ('password', 'token')),
    -- A password opens one role of one tenant: SCRAM-SHA-256 keys.
    tenant_id text REFERENCES tenant ON DELETE CASCADE,
    role text CHECK (role IN ('admin', 'write', 'read')),
    stored_key bytea CHECK (octet_length(stored_key) = 32),
    server_key bytea CHECK (octet_length(server_key) = 32),
    -- A token opens the API for one project: SHA-256.
    project_id text REFERENCES project ON DELETE CASCADE,
    access text CHECK (access IN ('full', 'read')),
    token_hash bytea CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CHECK ((kind = 'password') = (tenant_id IS NOT NULL)),
    CHECK ((kind = 'password') = (role IS NOT NULL)),
    CHECK ((kind = 'password') = (stored_key IS NOT NULL)),
    CHECK ((kind = 'password') = (server_key IS NOT NULL)),
    CHECK ((kind = 'token') = (project_id IS NOT NULL)),
    CHECK ((kind = 'token') = (access IS NOT NULL)),
    CHECK ((kind = 'token') = (token_hash IS NOT NULL))
);
CREATE UNIQUE INDEX credential_token ON credential (token_hash) WHERE kind = 'token';
CREATE INDEX credential_login ON credential (tenant_id, role, created_at DESC)
    WHERE revoked_at IS NULL AND kind = 'password';
CREATE INDEX credential_project ON credential (project_id, created_at) WHERE kind = 'token';
CREATE INDEX credential_ended ON credential (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE idempotency (
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    key text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    -- SHA-256 of method, path, query and body.
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    -- Who is working on it, and until when others believe that.
    instance text NOT NULL,
    leased_until timestamptz NOT NULL,
    -- The answer: encrypted, because it may hold a password. NULL: not there yet.
    status smallint,
    response bytea,
    -- Whether the answer is the one that was given, and not one written ahead of it.
    settled boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, key),
    CHECK ((status IS NULL) = (response IS NULL)),
    CHECK (NOT settled OR status IS NOT NULL)
);
CREATE INDEX idempotency_expires ON idempotency (expires_at);
