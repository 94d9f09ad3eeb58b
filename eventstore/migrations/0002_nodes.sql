-- What a node says of itself with each beat.
ALTER TABLE node
    ADD COLUMN gone_after interval,  -- when others may take it for gone; null of an older program, which does not say
    ADD COLUMN ahead interval NOT NULL DEFAULT '0',       -- how far its clock is ahead of the database's
    ADD COLUMN stopped bool NOT NULL DEFAULT false;       -- it has ended: another server may have its name
