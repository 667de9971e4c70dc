DROP INDEX photo_bucket_key, photo_failed;
DROP TABLE backfill;
