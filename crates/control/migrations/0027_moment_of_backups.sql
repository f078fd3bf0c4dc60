-- Every backup says which moment it holds. Those of kind 'moment' from the beginning; others when they are ready, unless they are older
-- than this.
ALTER TABLE backup DROP CONSTRAINT backup_check;
ALTER TABLE backup ADD CONSTRAINT backup_moment_known CHECK (moment IS NOT NULL OR kind <> 'moment');
