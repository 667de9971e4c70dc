DROP VIEW listing_review;
DROP VIEW listing_flag_feed;
CREATE VIEW listing_flag_feed AS
SELECT
    change.transaction_id,
    change.id,
    change.property_id,
    photo.bucket,
    photo.key,
    canonical.key AS duplicate_of_key,
    change.score,
    change.decided_by,
    change.changed_at,
    change.photo_id,
    change.duplicate_of AS duplicate_of_id
FROM flag_change AS change
JOIN photo ON photo.property_id = change.property_id AND photo.id = change.photo_id
LEFT JOIN photo AS canonical ON canonical.property_id = change.property_id AND canonical.id = change.duplicate_of
WHERE change.transaction_id < pg_snapshot_xmin(pg_current_snapshot());
COMMENT ON VIEW listing_flag_feed IS
    'What changed, in order of (transaction_id, id); duplicate_of_key NULL: the photo is no duplicate any more.';
REVOKE ALL ON listing_flag_feed FROM PUBLIC;
GRANT SELECT ON listing_flag_feed TO dedup_worker, dedup_reader;

DROP INDEX flag_change_feed_position;
DROP FUNCTION feed_position(xid8, bigint);
DROP FUNCTION record_verdict(text, text, text, boolean, text, text, text);
DROP INDEX photo_key;
DROP INDEX verdict_waiting;
ALTER TABLE verdict DROP COLUMN applied_at;
