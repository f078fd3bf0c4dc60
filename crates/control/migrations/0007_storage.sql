-- What a database takes on disk, as measured last, and what it may take. What was never measured is not too
-- much.
ALTER TABLE tenant_limits ADD COLUMN storage_bytes_max bigint CHECK (storage_bytes_max >= 0);
CREATE INDEX tenant_limits_storage ON tenant_limits (tenant_id) WHERE storage_bytes_max > 0;
ALTER TABLE placement
    ADD COLUMN storage_bytes bigint CHECK (storage_bytes >= 0),
    -- Its size when it was found above its limit first; NULL when it is not.
    ADD COLUMN storage_full_bytes bigint CHECK (storage_full_bytes >= 0),
    -- When that was measured which changed something here.
    ADD COLUMN storage_changed_at timestamptz;
