-- Of each file of an audit log the last head: a signature that covers all lines up to one of them. Who cuts off the
-- end of a file does not reach this.
CREATE TABLE audit_head (
    -- The data directory that the file is in.
    chain text NOT NULL,
    stream text NOT NULL CHECK (stream IN ('admin', 'connections')),
    segment bigint NOT NULL CHECK (segment > 0),
    -- Hash of the first line of the file: one that somebody puts in its place has another.
    first_hash bytea NOT NULL CHECK (length(first_hash) = 32),
    seq bigint NOT NULL CHECK (seq > 0),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    signature bytea NOT NULL CHECK (length(signature) = 64),
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain, stream, segment, first_hash)
);

-- How far the lines of a chain are in audit_log.
CREATE TABLE audit_chain (
    chain text PRIMARY KEY,
    copied_seq bigint NOT NULL
);

-- What was done, for those who ask the API. A copy: the files are what counts.
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain text NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    -- Empty: of no project; only the operator sees it.
    project_id text NOT NULL,
    tenant_id text,
    operation text NOT NULL,
    resource text NOT NULL,
    resource_id text,
    actor text NOT NULL,
    actor_id text,
    address text,
    success boolean NOT NULL,
    status integer,
    code text,
    request_id text,
    UNIQUE (chain, seq)
);
CREATE INDEX audit_log_of_project ON audit_log (project_id, id);
CREATE INDEX audit_log_at ON audit_log (at);
