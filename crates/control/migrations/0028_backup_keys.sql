-- Which installation.key wrapped the key of a database's backups, by its fingerprint. Under another one, new backups begin with a
-- key of their own, and those that were made before are known for what they are.
ALTER TABLE backup_key ADD COLUMN installation bytea;
UPDATE backup_key SET installation = fingerprint FROM installation_key;
-- Empty: of a catalog in which none was noted yet. The start that notes one says whose they are.
UPDATE backup_key SET installation = '' WHERE installation IS NULL;
ALTER TABLE backup_key DROP CONSTRAINT backup_key_pkey, ADD PRIMARY KEY (tenant_id, installation);

-- Under which it was made; null: it was not made yet.
ALTER TABLE backup ADD COLUMN installation bytea;
UPDATE backup SET installation = k.installation
    FROM (SELECT DISTINCT installation FROM backup_key) k WHERE backup.sha256 IS NOT NULL;
