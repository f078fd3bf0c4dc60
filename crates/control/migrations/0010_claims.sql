-- An anonymous project becomes somebody's with a code that the operator gave out.
ALTER TABLE project
    DROP CONSTRAINT project_kind_check,
    DROP CONSTRAINT project_check,
    ADD COLUMN claimed_at timestamptz,
    -- What the operator wrote on the code: whose it is.
    ADD COLUMN label text,
    ADD CONSTRAINT project_kind CHECK (kind IN ('operator', 'anonymous', 'claimed')),
    ADD CONSTRAINT project_anonymous CHECK ((kind = 'operator') = (anonymous_id IS NULL)),
    ADD CONSTRAINT project_claimed CHECK ((kind = 'claimed') = (claimed_at IS NOT NULL));

CREATE TABLE claim_code (
    id text PRIMARY KEY CHECK (id ~ '^crd_[a-z][a-z0-9]{11}$'),
    code_hash bytea NOT NULL UNIQUE CHECK (octet_length(code_hash) = 32),
    label text CHECK (char_length(label) BETWEEN 1 AND 63),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    project_id text REFERENCES project ON DELETE CASCADE,
    CHECK ((used_at IS NULL) = (project_id IS NULL))
);
CREATE INDEX claim_code_expires ON claim_code (expires_at);
