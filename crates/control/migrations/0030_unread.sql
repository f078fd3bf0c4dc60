-- What said that a backup could not be read said nothing of the backup: it is as good as it was.
UPDATE backup SET last_error = verify_error, verify_error = NULL, verified_at = NULL
    WHERE state = 'ready' AND verify_error ~ '^(backup_store_unreachable|catalog_unavailable):';
