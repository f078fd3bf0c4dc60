ALTER TABLE tenant
    -- From then on it is deleted, by this server's clock. What was deleted at or after it expired.
    ADD COLUMN expires_at timestamptz,
    -- Who keeps it suspended. What the operator suspended stays so through a delete and its undelete.
    ADD COLUMN suspended_by text CHECK (suspended_by IN ('owner', 'operator')),
    -- Since when it is in its state; kept by a trigger, so that nobody can forget it.
    ADD COLUMN state_since timestamptz NOT NULL DEFAULT now();
UPDATE tenant SET suspended_by = 'owner' WHERE state = 'SUSPENDED';
UPDATE tenant SET state_since = changed_at;
ALTER TABLE tenant
    ADD CHECK (state <> 'SUSPENDED' OR suspended_by IS NOT NULL),
    ADD CHECK (state IN ('SUSPENDED', 'DISABLING', 'DISABLED') OR suspended_by IS NULL);
CREATE INDEX tenant_expires ON tenant (expires_at)
    WHERE expires_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tenant_under_way ON tenant (state_since)
    WHERE state IN ('CREATING', 'CLONING', 'DISABLING');

CREATE FUNCTION tenant_state_since() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state_since := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER tenant_state_since BEFORE UPDATE OF state ON tenant
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION tenant_state_since();
