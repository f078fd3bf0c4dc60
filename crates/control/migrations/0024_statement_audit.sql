-- Databases of which every statement is a line in the audit log: 1.
ALTER TABLE tenant_limits ADD COLUMN statement_audit bigint CHECK (statement_audit BETWEEN 0 AND 1);
ALTER TABLE audit_head DROP CONSTRAINT audit_head_stream_check;
ALTER TABLE audit_head ADD CONSTRAINT audit_head_stream_check CHECK (stream IN ('admin', 'connections', 'statements'));
