-- Backups of what a database was at a moment that is past, recovered from the history of the node.
ALTER TABLE backup ADD COLUMN moment timestamptz;
ALTER TABLE backup DROP CONSTRAINT backup_kind_check;
ALTER TABLE backup ADD CHECK (kind IN ('manual', 'safety', 'scheduled', 'moment'));
ALTER TABLE backup ADD CHECK ((kind = 'moment') = (moment IS NOT NULL));

-- False: made only to be restored once. It is given up when that has ended, or nobody began it.
ALTER TABLE backup ADD COLUMN is_kept boolean NOT NULL DEFAULT true;
CREATE INDEX backup_not_kept ON backup (id) WHERE NOT is_kept;
