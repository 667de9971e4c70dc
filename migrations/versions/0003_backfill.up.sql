-- Of no property, so a reference table where the others are distributed.
CREATE TABLE backfill (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    selection text NOT NULL,
    position text NOT NULL DEFAULT '',
    settled bigint NOT NULL DEFAULT 0,
    total bigint,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE UNIQUE INDEX backfill_unfinished ON backfill (selection) WHERE finished_at IS NULL;
COMMENT ON TABLE backfill IS 'Where each backfill stands, so that it goes on there after a crash.';
COMMENT ON COLUMN backfill.selection IS 'What it fills in, as JSON; the same command goes on with the unfinished one.';
COMMENT ON COLUMN backfill.position IS 'All before it, and it, is done: a photo''s property and id, or an object''s key.';

-- Few photos fail; the many that do not stay out of the index.
CREATE INDEX photo_failed ON photo (property_id, id) WHERE status = 'failed';
-- By bytes, as S3 lists its keys: one page of a bucket against what is on record of it.
CREATE INDEX photo_bucket_key ON photo (bucket, key COLLATE "C");

REVOKE ALL ON backfill FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON backfill TO dedup_worker;
