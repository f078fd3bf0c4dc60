-- From how many milliseconds on a tenant's statements are called slow; 0: none is.
ALTER TABLE tenant_limits ADD COLUMN slow_statement_ms bigint CHECK (slow_statement_ms >= 0);
