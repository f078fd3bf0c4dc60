-- Where a project's alerts are told. The operator's project hears of the node and of all databases.
CREATE TABLE alert_target (
    project_id text PRIMARY KEY REFERENCES project ON DELETE CASCADE,
    url text NOT NULL CHECK (octet_length(url) <= 2000),
    -- What messages are signed with, sealed by the key of the installation.
    secret bytea NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    -- A message was tried last; taken last; not taken last, and why. A test was asked for last.
    tried_at timestamptz,
    sent_at timestamptz,
    failed_at timestamptz,
    last_error text,
    tested_at timestamptz
) WITH (fillfactor = 70);

-- What somebody said otherwise than the program does. Kinds and their bounds: `control::alert::rule`.
CREATE TABLE alert_rule (
    id text PRIMARY KEY CHECK (id ~ '^alr_[a-z][a-z0-9]{11}$'),
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    kind text NOT NULL,
    -- Of one database; null: of all that have no rule of their own.
    tenant_id text REFERENCES tenant ON DELETE CASCADE,
    is_on boolean NOT NULL,
    threshold double precision NOT NULL CHECK (threshold >= 0),
    for_s integer NOT NULL CHECK (for_s >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alert_rule_one UNIQUE NULLS NOT DISTINCT (project_id, kind, tenant_id)
);
CREATE INDEX alert_rule_tenant ON alert_rule (tenant_id);

CREATE TABLE alert (
    id text PRIMARY KEY CHECK (id ~ '^alt_[a-z][a-z0-9]{11}$'),
    -- Whose rule it is, and who is told.
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    kind text NOT NULL,
    about text NOT NULL CHECK (about IN ('database', 'credential', 'node')),
    -- An id, or the name of a node. It may be gone by now.
    subject text NOT NULL,
    subject_name text,
    subject_project_id text,
    -- 'pending': for less than its rule says; nobody is told.
    state text NOT NULL CHECK (state IN ('pending', 'open', 'resolved')),
    value double precision NOT NULL,
    threshold double precision NOT NULL,
    since timestamptz NOT NULL,
    opened_at timestamptz,
    -- Since when there is no reason for it any more, while it is open.
    gone_since timestamptz,
    resolved_at timestamptz,
    -- The pass that looked at it last.
    seen_at timestamptz NOT NULL,
    -- A message of this is still to be written.
    untold text CHECK (untold IN ('opened', 'resolved')),
    CHECK ((state = 'pending') = (opened_at IS NULL)),
    CHECK ((state = 'resolved') = (resolved_at IS NOT NULL))
) WITH (fillfactor = 70);
-- One at a time, whatever the program does.
CREATE UNIQUE INDEX alert_one ON alert (project_id, kind, subject) WHERE state <> 'resolved';
CREATE INDEX alert_standing ON alert (subject) WHERE state <> 'resolved';
CREATE INDEX alert_listed ON alert (project_id, opened_at DESC) WHERE state <> 'pending';
CREATE INDEX alert_untold ON alert (project_id) WHERE untold IS NOT NULL;

-- Messages, each as it is sent every time.
CREATE TABLE alert_message (
    id text PRIMARY KEY CHECK (id ~ '^alm_[a-z][a-z0-9]{11}$'),
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    alert_id text NOT NULL REFERENCES alert ON DELETE CASCADE,
    project_id text NOT NULL REFERENCES alert_target ON DELETE CASCADE,
    event text NOT NULL CHECK (event IN ('opened', 'resolved')),
    body text NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    -- When it is tried next.
    due_at timestamptz NOT NULL DEFAULT now(),
    -- Who tries it now, and until when others believe that. Says nothing of the next time.
    leased_by text,
    leased_until timestamptz,
    last_error text,
    ended_at timestamptz,
    UNIQUE (alert_id, event),
    CHECK ((leased_by IS NULL) = (leased_until IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX alert_message_waiting ON alert_message (project_id, number) WHERE state = 'waiting';

-- Who looks at rules, one at a time, and when it is looked again.
CREATE TABLE alert_pass (
    is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    due_at timestamptz NOT NULL DEFAULT now(),
    leased_by text,
    leased_until timestamptz
);
INSERT INTO alert_pass DEFAULT VALUES;
