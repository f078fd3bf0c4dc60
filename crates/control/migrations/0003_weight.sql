-- How much more than others a tenant gets when server connections are short. Taken from others, so the
-- operator says it.
ALTER TABLE tenant_limits
    ADD COLUMN server_connections_weight bigint CHECK (server_connections_weight > 0),
    ADD CHECK (set_by = 'operator' OR server_connections_weight IS NULL);
