-- What every database takes on disk, limit or not: a few are measured at a time, whose turn is the longest ago.
ALTER TABLE placement
    -- When `storage_bytes` was what it took. NULL: never measured.
    ADD COLUMN storage_measured_at timestamptz,
    ADD COLUMN storage_due_at timestamptz NOT NULL DEFAULT now();
UPDATE placement SET storage_measured_at = storage_changed_at WHERE storage_bytes IS NOT NULL;
CREATE INDEX placement_storage_due ON placement (node, storage_due_at, pid)
    WHERE owner = 'tenant' AND stage IN ('open', 'closed');

-- Whoever has the turn measures, so that many processes together do not measure more than one.
CREATE TABLE storage_turn (
    node text PRIMARY KEY,
    due_at timestamptz NOT NULL
) WITH (fillfactor = 50);
