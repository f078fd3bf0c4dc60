-- What one tenant may use at once. Two parties say it; what neither says is the default, which stands
-- in the program. Names, units and bounds: `model::limits`. 0 is "no limit" where that may be said.
CREATE TABLE tenant_limits (
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    set_by text NOT NULL CHECK (set_by IN ('operator', 'owner')),
    client_connections_max bigint CHECK (client_connections_max > 0),
    server_connections_max bigint CHECK (server_connections_max > 0),
    server_connections_min bigint CHECK (server_connections_min >= 0),
    statements_per_second bigint CHECK (statements_per_second >= 0),
    statements_burst bigint CHECK (statements_burst >= 0),
    result_rows_max bigint CHECK (result_rows_max >= 0),
    result_bytes_max bigint CHECK (result_bytes_max >= 0),
    statement_ms_max bigint CHECK (statement_ms_max >= 0),
    transaction_ms_max bigint CHECK (transaction_ms_max >= 0),
    idle_in_transaction_ms_max bigint CHECK (idle_in_transaction_ms_max >= 0),
    client_idle_ms_max bigint CHECK (client_idle_ms_max >= 0),
    pool_mode text CHECK (pool_mode IN ('auto', 'session', 'transaction')),
    -- Empty: nobody.
    allowed_addresses cidr[],
    PRIMARY KEY (tenant_id, set_by),
    -- Only the operator takes from others.
    CHECK (set_by = 'operator' OR server_connections_min IS NULL)
);
