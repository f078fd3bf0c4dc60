-- How much private memory a server process may have, in bytes; 0 is no limit, as with the others.
ALTER TABLE tenant_limits ADD COLUMN memory_bytes_max bigint CHECK (memory_bytes_max >= 0);
