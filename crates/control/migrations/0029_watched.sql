-- When somebody asked last for a backup that is made only to be restored once, and is not ready yet.
ALTER TABLE backup ADD COLUMN watched_at timestamptz;
