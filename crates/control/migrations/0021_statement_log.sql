-- Which statements are kept in a tenant's log, and of how many others one.
ALTER TABLE tenant_limits
    ADD COLUMN statement_log text CHECK (statement_log IN ('off', 'errors', 'slow', 'all', 'sampled')),
    ADD COLUMN statement_log_sample bigint CHECK (statement_log_sample > 0);

-- Statements of tenants, without their constants: a row has the lines that one process took at once, so that
-- few rows are written, and few are removed. One element of each list is one line.
CREATE TABLE statement_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Drawn by whoever writes it, who may not know whether it was written: then it writes it again.
    part bigint NOT NULL UNIQUE,
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    -- Of its lines.
    last_at timestamptz NOT NULL,
    line_count integer NOT NULL CHECK (line_count >= 0),
    -- Further lines that there was no room for.
    dropped_count bigint NOT NULL CHECK (dropped_count >= 0),
    -- Shapes of its statements, by number and text.
    shapes bigint[] NOT NULL,
    texts text[] NOT NULL,
    at timestamptz[] NOT NULL,
    logins text[] NOT NULL,
    -- Which of the shapes, from 1; NULL: it is not known.
    shape_places integer[] NOT NULL,
    -- Microseconds; NULL: not measured.
    took_us bigint[] NOT NULL,
    row_counts bigint[] NOT NULL,
    -- SQLSTATE; NULL: no error.
    errors text[] NOT NULL,
    are_slow boolean[] NOT NULL
);
CREATE INDEX statement_log_tenant ON statement_log (tenant_id, last_at) INCLUDE (line_count);
CREATE INDEX statement_log_age ON statement_log (last_at) INCLUDE (line_count);

-- What tenants' statements did, by days: a ring like those of insight_slot, for a week.
CREATE TABLE insight_day (
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    place smallint NOT NULL CHECK (place >= 0),
    slot bigint NOT NULL,
    counts bigint[] NOT NULL,
    PRIMARY KEY (tenant_id, place)
) WITH (fillfactor = 70);
CREATE INDEX insight_day_slot ON insight_day (slot);
