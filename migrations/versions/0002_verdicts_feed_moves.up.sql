DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dedup_editor') THEN
        CREATE ROLE dedup_editor NOLOGIN;
    END IF;
END
$$;

-- NULL until the property's groups were formed anew with it: the verdict itself remembers that this is to be done.
ALTER TABLE verdict ADD COLUMN applied_at timestamptz;
CREATE INDEX verdict_waiting ON verdict (property_id) WHERE applied_at IS NULL;
COMMENT ON COLUMN verdict.applied_at IS 'When the flags first followed it; NULL: the sweep still has to see to it.';

-- A changed key pattern gives an object to another property; its row is then found by its place alone.
CREATE INDEX photo_key ON photo USING hash (key);

-- Runs as its owner, as the caller reads no table; search_path is fixed so that no caller can put others in the way.
CREATE FUNCTION record_verdict(
    property_id text,
    key_a text,
    key_b text,
    duplicate boolean,
    decided_by text DEFAULT session_user::text,
    bucket_a text DEFAULT NULL,
    bucket_b text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    keys CONSTANT text[] := ARRAY[key_a, key_b];
    buckets CONSTANT text[] := ARRAY[bucket_a, bucket_b];
    matches bigint[];
    photos bigint[] := '{}';
BEGIN
    IF record_verdict.property_id IS NULL OR key_a IS NULL OR key_b IS NULL OR record_verdict.duplicate IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'property_id, key_a, key_b and duplicate must not be NULL.',
            HINT = 'Give the property, the keys of both photos, and true (duplicates) or false (different).';
    END IF;
    IF length(btrim(coalesce(record_verdict.decided_by, ''))) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'decided_by must hold 1 to 200 characters.',
            HINT = 'Give the name of whoever decided.';
    END IF;
    -- The lock of matching, until the caller commits: whoever regroups the property afterwards sees this verdict.
    PERFORM pg_advisory_xact_lock(hashtextextended('listing-dedup ' || record_verdict.property_id, 0));
    FOR place IN 1..2 LOOP
        -- Locked, so that under REPEATABLE READ a photo that changed meanwhile is an error and not overlooked.
        SELECT array_agg(candidate.id) INTO matches
        FROM (
            SELECT photo.id
            FROM photo
            WHERE photo.property_id = record_verdict.property_id AND photo.key = keys[place]
              AND (buckets[place] IS NULL OR photo.bucket = buckets[place]) AND photo.status <> 'removed'
            FOR SHARE
        ) AS candidate;
        IF matches IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'no_data_found',
                MESSAGE = 'Property ' || record_verdict.property_id || ' has no photo with the key '
                    || coalesce('s3://' || buckets[place] || '/', '') || keys[place] || '.',
                HINT = 'Give the whole key as listing_duplicates shows it; photos that were removed take no verdicts.';
        END IF;
        IF cardinality(matches) > 1 THEN
            RAISE EXCEPTION USING ERRCODE = 'too_many_rows',
                MESSAGE = 'Property ' || record_verdict.property_id || ' has photos with the key ' || keys[place]
                    || ' in ' || cardinality(matches) || ' buckets.',
                HINT = 'Name the bucket, too.';
        END IF;
        photos := photos || matches;
    END LOOP;
    IF photos[1] = photos[2] THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'Both keys name the same photo, ' || key_a || '.',
            HINT = 'A verdict is on two photos.';
    END IF;
    -- The clock, not the transaction's start: of two verdicts on a pair the one that had the lock last stands.
    INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by, decided_at)
    VALUES (record_verdict.property_id, least(photos[1], photos[2]), greatest(photos[1], photos[2]),
            record_verdict.duplicate, btrim(record_verdict.decided_by), clock_timestamp())
    ON CONFLICT (property_id, photo_a, photo_b)
    DO UPDATE SET duplicate = excluded.duplicate, decided_by = excluded.decided_by,
        decided_at = excluded.decided_at, applied_at = NULL;
    PERFORM pg_notify('dedup_verdict', '');
END
$$;
COMMENT ON FUNCTION record_verdict(text, text, text, boolean, text, text, text) IS
    'A person''s word on two photos of a property; it wins over the model until a later one on the same pair.';
REVOKE ALL ON FUNCTION record_verdict(text, text, text, boolean, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_verdict(text, text, text, boolean, text, text, text) TO dedup_editor, dedup_worker;

-- One value to remember and to compare: both numbers in full width, so that text sorts as they do.
CREATE FUNCTION feed_position(transaction_id xid8, id bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lpad(transaction_id::text, 20, '0') || '-' || lpad(id::text, 19, '0');
COMMENT ON FUNCTION feed_position(xid8, bigint) IS 'The place of a change in listing_flag_feed.';
CREATE INDEX flag_change_feed_position ON flag_change (feed_position(transaction_id, id) COLLATE "C");

CREATE OR REPLACE VIEW listing_flag_feed AS
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
    change.duplicate_of AS duplicate_of_id,
    canonical.bucket AS duplicate_of_bucket,
    feed_position(change.transaction_id, change.id) COLLATE "C" AS position
FROM flag_change AS change
JOIN photo ON photo.property_id = change.property_id AND photo.id = change.photo_id
LEFT JOIN photo AS canonical ON canonical.property_id = change.property_id AND canonical.id = change.duplicate_of
WHERE change.transaction_id < pg_snapshot_xmin(pg_current_snapshot());
COMMENT ON VIEW listing_flag_feed IS
    'What changed, in the order of position; duplicate_of_key NULL: the photo is no duplicate any more.';

-- The bundle's review band: what the model would not flag by itself and nobody has decided yet.
CREATE VIEW listing_review AS
SELECT
    pair.property_id,
    a.bucket AS bucket_a,
    a.key AS key_a,
    b.bucket AS bucket_b,
    b.key AS key_b,
    pair.score,
    pair.photo_a AS id_a,
    pair.photo_b AS id_b
FROM pair
JOIN model ON model.id = pair.model_id AND model.status = 'active' AND pair.score < model.duplicate_threshold
JOIN photo AS a ON a.property_id = pair.property_id AND a.id = pair.photo_a
JOIN photo AS b ON b.property_id = pair.property_id AND b.id = pair.photo_b
WHERE NOT EXISTS (
    SELECT FROM verdict
    WHERE verdict.property_id = pair.property_id AND verdict.photo_a = pair.photo_a AND verdict.photo_b = pair.photo_b
);
COMMENT ON VIEW listing_review IS 'One row a pair that a person should look at; record_verdict takes the answer.';
REVOKE ALL ON listing_review FROM PUBLIC;
GRANT SELECT ON listing_review TO dedup_worker, dedup_reader;
