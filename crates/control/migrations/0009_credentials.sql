-- Every credential says who made it and where it was last used. Tokens have a name and may be bound to some
-- databases; a database is also opened by connect tokens and by keys.
ALTER TABLE credential
    ADD COLUMN name text CHECK (char_length(name) BETWEEN 1 AND 63),
    -- 'operator', 'registration', or the id of the token that made it. NULL: nobody noted it then.
    ADD COLUMN created_by text,
    ADD COLUMN last_used_from inet,
    -- Where clients must come from. NULL: from anywhere.
    ADD COLUMN network cidr,
    DROP CONSTRAINT credential_kind_check,
    DROP CONSTRAINT credential_access_check,
    DROP CONSTRAINT credential_check,
    DROP CONSTRAINT credential_check1,
    DROP CONSTRAINT credential_check2,
    DROP CONSTRAINT credential_check3,
    ADD CONSTRAINT credential_kind CHECK (kind IN ('password', 'connect', 'key', 'token')),
    -- 'scoped': only the databases of credential_scope.
    ADD CONSTRAINT credential_access CHECK (access IN ('full', 'read', 'scoped')),
    ADD CONSTRAINT credential_tenant CHECK ((kind <> 'token') = (tenant_id IS NOT NULL)),
    ADD CONSTRAINT credential_role CHECK ((kind <> 'token') = (role IS NOT NULL)),
    ADD CONSTRAINT credential_stored_key CHECK ((kind <> 'token') = (stored_key IS NOT NULL)),
    ADD CONSTRAINT credential_server_key CHECK ((kind <> 'token') = (server_key IS NOT NULL)),
    ADD CONSTRAINT credential_network CHECK (network IS NULL OR kind <> 'token'),
    -- What is made to be short ends by itself.
    ADD CONSTRAINT credential_connect_ends CHECK (kind <> 'connect' OR expires_at IS NOT NULL);

DROP INDEX credential_login;
CREATE INDEX credential_login ON credential (tenant_id, role, created_at DESC)
    WHERE revoked_at IS NULL AND kind <> 'token';
CREATE INDEX credential_expired ON credential (expires_at) WHERE expires_at IS NOT NULL;

-- What a token that is bound to some databases may do there.
CREATE TABLE credential_scope (
    credential_id text NOT NULL REFERENCES credential ON DELETE CASCADE,
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    access text NOT NULL CHECK (access IN ('ro', 'rw')),
    PRIMARY KEY (credential_id, tenant_id)
);
CREATE INDEX credential_scope_tenant ON credential_scope (tenant_id);
