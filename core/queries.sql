-- Every SQL statement of the workers, by name. Each touches one property (or the reference table "model"),
-- except where its comment says why not.

-- name: lock_property
SELECT pg_advisory_xact_lock(hashtextextended('listing-dedup ' || %(property_id)s, 0));

-- name: lock_to_match
-- As lock_property. And the commit does not wait for the disk, nor for a standby: a crash that takes all of a match
-- along leaves its photos unmatched, and the sweep sees that.
SELECT pg_advisory_xact_lock(hashtextextended('listing-dedup ' || %(property_id)s, 0)),
    set_config('synchronous_commit', 'off', true);

-- name: insert_photo
INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status, bytes)
VALUES (%(property_id)s, %(bucket)s, %(key)s, %(etag)s, %(sequencer)s, %(occurred_at)s, %(occurred_at)s,
        %(status)s, %(bytes)s)
ON CONFLICT (property_id, bucket, key) DO NOTHING
RETURNING id, revision;

-- name: photo_by_key
SELECT id, etag, sequencer, occurred_at, uploaded_at, revision, status, failure, sha256
FROM photo
WHERE property_id = %(property_id)s AND bucket = %(bucket)s AND key = %(key)s
FOR NO KEY UPDATE;

-- name: touch_photo
UPDATE photo
SET sequencer = %(sequencer)s, occurred_at = %(occurred_at)s, uploaded_at = %(uploaded_at)s
WHERE property_id = %(property_id)s AND id = %(photo_id)s;

-- name: renew_photo
UPDATE photo
SET revision = revision + 1, attempts = 0, postponed = 0
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s;

-- name: renew_embeddings
UPDATE photo_embedding
SET revision = revision + 1
WHERE property_id = %(property_id)s AND photo_id = %(photo_id)s AND revision = %(revision)s;

-- name: new_revision
UPDATE photo
SET etag = %(etag)s, sequencer = %(sequencer)s, occurred_at = %(occurred_at)s, uploaded_at = %(uploaded_at)s,
    revision = revision + 1, status = 'pending', failure = NULL, failure_message = NULL, attempts = 0, postponed = 0,
    width = NULL, height = NULL, bytes = %(bytes)s, sha256 = CASE WHEN %(keep_sha256)s THEN sha256 END,
    matched_at = NULL, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s;

-- name: remove_photo
UPDATE photo
SET status = 'removed', failure = %(reason)s, failure_message = NULL, matched_at = NULL, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status <> 'removed'
RETURNING id;

-- name: drop_embeddings
DELETE FROM photo_embedding WHERE property_id = %(property_id)s AND photo_id = %(photo_id)s;

-- name: drop_pairs
DELETE FROM pair
WHERE property_id = %(property_id)s AND (photo_a = %(photo_id)s OR photo_b = %(photo_id)s);

-- name: drop_verdicts
DELETE FROM verdict
WHERE property_id = %(property_id)s AND (photo_a = %(photo_id)s OR photo_b = %(photo_id)s);

-- name: insert_rejection
INSERT INTO rejected_event (reason, message, body) VALUES (%(reason)s, %(message)s, %(body)s);

-- name: begin_attempt
-- "lacking": the live models, but for those that the worker cannot embed by, of which the photo has no embedding.
-- Nothing is counted before the worker knows them all. A photo whose process was lost with it is counted again only
-- when it is tried alone.
WITH before AS (
    SELECT property_id, id, attempts, sha256, ARRAY(
        SELECT model.id
        FROM model
        WHERE model.status <> 'retired' AND model.id <> ALL(%(unfit)s)
          AND (photo.updated_at < %(again)s::timestamptz OR photo.status = 'pending' OR NOT EXISTS (
              SELECT FROM photo_embedding
              WHERE photo_embedding.property_id = %(property_id)s AND photo_embedding.photo_id = photo.id
                AND photo_embedding.model_id = model.id
          ))
        ORDER BY model.id
    ) AS lacking
    FROM photo
    WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s
      AND status IN ('pending', 'embedded')
    FOR NO KEY UPDATE
)
UPDATE photo
SET attempts = before.attempts + (
    cardinality(lacking) > 0 AND lacking <@ %(known)s AND (before.attempts = 0 OR %(alone)s)
)::integer
FROM before
WHERE photo.property_id = %(property_id)s AND photo.id = before.id
RETURNING photo.bucket, photo.key, before.attempts AS lost, before.lacking, before.sha256,
    (SELECT id FROM model WHERE status = 'active') AS active,
    ARRAY(SELECT id FROM model WHERE status <> 'retired') AS live;

-- name: seen_content
SELECT etag, sha256
FROM photo
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status <> 'removed'
FOR NO KEY UPDATE;

-- name: free_photo
-- As seen_content, but not of a photo whose row somebody has locked.
SELECT etag, sha256
FROM photo
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status <> 'removed'
FOR NO KEY UPDATE SKIP LOCKED;

-- name: embedded
UPDATE photo
SET status = 'embedded', failure = NULL, failure_message = NULL, attempts = 0, postponed = 0, etag = %(etag)s, width = %(width)s,
    height = %(height)s, bytes = %(bytes)s, sha256 = %(sha256)s, matched_at = NULL, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s
RETURNING extract(epoch FROM clock_timestamp() - uploaded_at)::float8 AS age_seconds;

-- name: store_embedding
-- Not of a model that was retired since: the lock makes whoever retires it wait, or this statement see it.
INSERT INTO photo_embedding (property_id, photo_id, model_id, revision, embedding)
SELECT %(property_id)s, %(photo_id)s, model.id, %(revision)s, %(embedding)b
FROM model
WHERE model.id = %(model_id)s AND model.status <> 'retired'
FOR SHARE
ON CONFLICT (property_id, photo_id, model_id)
DO UPDATE SET revision = excluded.revision, embedding = excluded.embedding;

-- name: share_models
SELECT id FROM model WHERE id = ANY(%(models)s) ORDER BY id FOR SHARE;

-- name: lacking_models
SELECT model.id
FROM model
WHERE model.status <> 'retired' AND NOT EXISTS (
    SELECT FROM photo_embedding
    WHERE property_id = %(property_id)s AND photo_id = %(photo_id)s AND model_id = model.id
)
ORDER BY model.id;

-- name: failed
-- Who comes to an end with a photo that was parked as one that kills its worker knows better.
UPDATE photo
SET status = 'failed', failure = %(reason)s, failure_message = %(message)s, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s
  AND (status = 'pending' OR (status = 'failed' AND failure = 'killed_worker'))
RETURNING id;

-- name: park_lacking
UPDATE photo
SET status = 'failed', failure = 'lacks_model', failure_message = %(message)s, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status = 'embedded'
  AND updated_at <= %(tried_until)s
  AND NOT EXISTS (
      SELECT FROM photo_embedding
      WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id AND model_id = %(model_id)s
  )
RETURNING id;

-- name: excuse
UPDATE photo
SET attempts = greatest(attempts - 1, 0)
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s;

-- name: unpark
UPDATE photo
SET status = 'pending', failure = NULL, failure_message = NULL, attempts = greatest(attempts - 1, 0), updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s
  AND status = 'failed' AND failure = 'killed_worker';

-- name: postpone
-- Once a round, however many copies of its task there are. One that is embedded already keeps what it has; whoever waits
-- for it to be embedded anew, or by a further model, sees that it was tried.
UPDATE photo
SET postponed = greatest(postponed, %(round)s + 1),
    updated_at = CASE status WHEN 'embedded' THEN now() ELSE updated_at END
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s
  AND status IN ('pending', 'embedded')
RETURNING postponed;

-- name: overdue
-- Over all properties: the sweep looks for what was left behind anywhere, by the small partial index. The new
-- updated_at and the skipped locks keep two sweeps from taking the same photo.
WITH chosen AS (
    SELECT property_id, id, updated_at
    FROM photo
    WHERE (status = 'pending' OR (status = 'embedded' AND matched_at IS NULL))
      AND updated_at < now() - make_interval(secs => %(older_than_seconds)s)
    ORDER BY updated_at
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE photo
SET updated_at = now()
FROM chosen
WHERE photo.property_id = chosen.property_id AND photo.id = chosen.id
RETURNING photo.property_id, photo.id, photo.revision, photo.status, photo.postponed, chosen.updated_at AS waits_since;

-- name: lock_embedded
-- Whoever stores a further embedding of these photos waits, so that "matched" never speaks of one that was not seen.
SELECT id FROM photo
WHERE property_id = %(property_id)s AND id = ANY(%(photo_ids)s) AND status = 'embedded'
ORDER BY id
FOR NO KEY UPDATE;

-- name: neighbours
-- The photo itself and those nearest to it, by each live model that has embedded it, among the model's own embeddings:
-- a row a model. In one value, since the server sends rows of eight kilobytes one by one. And between whom its pairs on
-- record are; and whether flags can stay as they are if the photo gets no pair: they are those of the model, none speaks
-- of the photo, and no person has said anything, which reaches further than to the two photos (and of the photo itself is
-- forgotten, with its pairs, where it is embedded from other bytes).
SELECT own.model_id, model.review_threshold, model.status, near.photo_ids, near.embeddings, ARRAY(
    SELECT ARRAY[photo_a, photo_b]
    FROM pair
    WHERE property_id = %(property_id)s AND model_id = own.model_id AND own.photo_id IN (photo_a, photo_b)
) AS on_record, EXISTS (
    SELECT FROM property_model WHERE property_id = %(property_id)s AND model_id = own.model_id
) AND NOT EXISTS (
    SELECT FROM verdict WHERE property_id = %(property_id)s
) AND NOT EXISTS (
    SELECT FROM duplicate_flag
    WHERE property_id = %(property_id)s AND (photo_id = %(photo_id)s OR duplicate_of = %(photo_id)s)
) AS settled
FROM photo_embedding AS own
JOIN model ON model.id = own.model_id AND model.status <> 'retired'
CROSS JOIN LATERAL (
    SELECT array_agg(photo_id) AS photo_ids, string_agg(halfvec_send(embedding), '') AS embeddings
    FROM (
        SELECT other.photo_id, other.embedding
        FROM photo_embedding AS other
        WHERE other.property_id = %(property_id)s AND other.model_id = own.model_id
        ORDER BY other.photo_id <> own.photo_id, other.embedding <#> own.embedding, other.photo_id
        LIMIT %(limit)s + 1
    ) AS nearest
) AS near
WHERE own.property_id = %(property_id)s AND own.photo_id = %(photo_id)s
ORDER BY own.model_id;

-- name: everybody
-- As neighbours, of several photos: whom each live model that has embedded one of them has embedded in the property, at
-- most `limit`, no matter which.
SELECT model.id AS model_id, model.review_threshold, model.status, everybody.photo_ids, everybody.embeddings, ARRAY(
    SELECT ARRAY[photo_a, photo_b]
    FROM pair
    WHERE property_id = %(property_id)s AND model_id = model.id
      AND (photo_a = ANY(%(photo_ids)s) OR photo_b = ANY(%(photo_ids)s))
) AS on_record, EXISTS (
    SELECT FROM property_model WHERE property_id = %(property_id)s AND model_id = model.id
) AND NOT EXISTS (
    SELECT FROM verdict WHERE property_id = %(property_id)s
) AND NOT EXISTS (
    SELECT FROM duplicate_flag
    WHERE property_id = %(property_id)s AND (photo_id = ANY(%(photo_ids)s) OR duplicate_of = ANY(%(photo_ids)s))
) AS settled
FROM model
CROSS JOIN LATERAL (
    SELECT array_agg(photo_id) AS photo_ids, string_agg(halfvec_send(embedding), '') AS embeddings
    FROM (
        SELECT photo_id, embedding
        FROM photo_embedding
        WHERE property_id = %(property_id)s AND model_id = model.id
        LIMIT %(limit)s
    ) AS embedded
) AS everybody
WHERE model.status <> 'retired' AND EXISTS (
    SELECT FROM photo_embedding
    WHERE property_id = %(property_id)s AND photo_id = ANY(%(photo_ids)s) AND model_id = model.id
)
ORDER BY model.id;

-- name: store_pair
-- Not of a model that was retired since, as in store_embedding.
INSERT INTO pair (property_id, photo_a, photo_b, model_id, similarity, score)
SELECT %(property_id)s, %(photo_a)s, %(photo_b)s, model.id, %(similarity)s, %(score)s
FROM model
WHERE model.id = %(model_id)s AND model.status <> 'retired'
FOR SHARE
ON CONFLICT (property_id, photo_a, photo_b, model_id)
DO UPDATE SET similarity = excluded.similarity, score = excluded.score;

-- name: drop_pair
DELETE FROM pair
WHERE property_id = %(property_id)s AND photo_a = %(photo_a)s AND photo_b = %(photo_b)s AND model_id = %(model_id)s;

-- name: matched
-- The first match of an embedding only: those that copies of its task lead to are neither written nor measured. Not
-- "matched_at IS NULL", which would let the planner look through all unfinished photos, by an index that was empty when
-- it was last analysed.
UPDATE photo
SET matched_at = now(), postponed = 0
WHERE property_id = %(property_id)s AND id = ANY(%(photo_ids)s) AND status = 'embedded'
  AND coalesce(matched_at, 'infinity') = 'infinity'
RETURNING extract(epoch FROM clock_timestamp() - uploaded_at)::float8 AS age_seconds;

-- name: commit_waiting
-- As this session does elsewhere.
SELECT set_config('synchronous_commit', NULL, true);

-- name: match_failed
-- Once a round of the sweep, as postpone, which speaks of photos that are to be embedded.
UPDATE photo
SET postponed = greatest(postponed, %(round)s + 1)
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND status = 'embedded' AND coalesce(matched_at, 'infinity') = 'infinity'
RETURNING revision, postponed;

-- name: park_unmatched
UPDATE photo
SET status = 'failed', failure = 'unmatched', failure_message = %(message)s, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status = 'embedded'
  AND coalesce(matched_at, 'infinity') = 'infinity'
RETURNING id;

-- name: decisions
-- Pairs that are duplicates by the model that the property shows, and pairs of which a person has said what they are.
SELECT photo_a, photo_b, by_model.score, by_person.duplicate, by_person.applied_at
FROM (
    SELECT pair.photo_a, pair.photo_b, pair.score
    FROM property_model
    JOIN model ON model.id = property_model.model_id
    JOIN pair ON pair.property_id = property_model.property_id AND pair.model_id = model.id
    WHERE property_model.property_id = %(property_id)s AND pair.property_id = %(property_id)s
      AND pair.score >= model.duplicate_threshold
) AS by_model
FULL JOIN (
    SELECT photo_a, photo_b, duplicate, applied_at FROM verdict WHERE property_id = %(property_id)s
) AS by_person USING (photo_a, photo_b);

-- name: decided_photos
-- Those of `decisions`, and those that are flagged, with their flags; earliest upload first.
SELECT photo.id, photo.status, flag.duplicate_of, flag.score, flag.model_id, flag.decided_by
FROM photo
LEFT JOIN duplicate_flag AS flag ON flag.property_id = %(property_id)s AND flag.photo_id = photo.id
WHERE photo.property_id = %(property_id)s AND photo.id IN (
    SELECT unnest(ARRAY[pair.photo_a, pair.photo_b])
    FROM property_model
    JOIN model ON model.id = property_model.model_id
    JOIN pair ON pair.property_id = property_model.property_id AND pair.model_id = model.id
    WHERE property_model.property_id = %(property_id)s AND pair.property_id = %(property_id)s
      AND pair.score >= model.duplicate_threshold
    UNION ALL
    SELECT unnest(ARRAY[photo_a, photo_b]) FROM verdict WHERE property_id = %(property_id)s
    UNION ALL
    SELECT photo_id FROM duplicate_flag WHERE property_id = %(property_id)s
)
ORDER BY photo.uploaded_at, photo.key, photo.id;

-- name: drop_flag
DELETE FROM duplicate_flag WHERE property_id = %(property_id)s AND photo_id = %(photo_id)s;

-- name: store_flag
INSERT INTO duplicate_flag (property_id, photo_id, duplicate_of, score, model_id, decided_by)
VALUES (%(property_id)s, %(photo_id)s, %(duplicate_of)s, %(score)s, %(model_id)s, %(decided_by)s)
ON CONFLICT (property_id, photo_id)
DO UPDATE SET duplicate_of = excluded.duplicate_of, score = excluded.score, model_id = excluded.model_id,
    decided_by = excluded.decided_by,
    since = CASE WHEN duplicate_flag.duplicate_of = excluded.duplicate_of THEN duplicate_flag.since ELSE now() END;

-- name: append_change
INSERT INTO flag_change (property_id, photo_id, duplicate_of, score, decided_by)
VALUES (%(property_id)s, %(photo_id)s, %(duplicate_of)s, %(score)s, %(decided_by)s);

-- name: active_model
SELECT id, name, dims, duplicate_threshold, review_threshold, untrained, status,
    coalesce(card #>> '{backbone,weights_name}', '') AS weights_name,
    coalesce(card #>> '{backbone,weights_sha256}', '') AS weights_sha256, bundle_card IS NOT NULL AS has_bundle
FROM model
WHERE status = 'active';

-- name: models
SELECT id, name, dims, duplicate_threshold, review_threshold, untrained, status,
    coalesce(card #>> '{backbone,weights_name}', '') AS weights_name,
    coalesce(card #>> '{backbone,weights_sha256}', '') AS weights_sha256, bundle_card IS NOT NULL AS has_bundle
FROM model
ORDER BY array_position(ARRAY['active', 'candidate', 'retired'], status), created_at, id;

-- name: model_bundle
SELECT digest, bundle_card, bundle_tensors FROM model WHERE id = %(id)s;

-- name: fill_in_bundle
UPDATE model
SET bundle_card = %(bundle_card)s, bundle_tensors = %(bundle_tensors)s
WHERE id = %(id)s AND bundle_card IS NULL;

-- name: model_standing
-- Over all properties.
SELECT
    (SELECT count(*) FROM photo WHERE status = 'embedded') AS on_record,
    (SELECT count(*) FROM photo JOIN photo_embedding ON photo_embedding.property_id = photo.property_id
        AND photo_id = photo.id AND model_id = %(model_id)s WHERE status = 'embedded') AS embedded,
    (SELECT count(*) FROM property_model WHERE model_id = %(model_id)s) AS properties;

-- name: photos_lacking
-- Over all properties.
SELECT count(*) AS photos
FROM photo
WHERE status = 'embedded' AND NOT EXISTS (
    SELECT FROM photo_embedding
    WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id AND model_id = %(model_id)s
);

-- name: shown_model
-- Whose flags the property shows from now on: the active model's, once every embedded photo of the property is
-- embedded and matched by it; until then those of the model that it has. The model's row is locked where it is written,
-- so that it is not retired meanwhile.
WITH shown AS (
    SELECT model_id FROM property_model WHERE property_id = %(property_id)s
), written AS (
    INSERT INTO property_model (property_id, model_id)
    SELECT %(property_id)s, model.id
    FROM model
    WHERE model.status = 'active' AND model.id IS DISTINCT FROM (SELECT model_id FROM shown)
      AND (NOT EXISTS (SELECT FROM shown) OR NOT EXISTS (
          SELECT FROM photo
          WHERE photo.property_id = %(property_id)s AND photo.status = 'embedded'
            AND (photo.matched_at IS NULL OR NOT EXISTS (
                SELECT FROM photo_embedding
                WHERE photo_embedding.property_id = %(property_id)s AND photo_id = photo.id AND model_id = model.id
            ))
      ))
    FOR SHARE OF model
    ON CONFLICT (property_id) DO UPDATE SET model_id = excluded.model_id
    RETURNING model_id
)
SELECT model_id FROM written
UNION ALL
SELECT model_id FROM shown WHERE NOT EXISTS (SELECT FROM written);

-- name: properties_behind
-- Over all properties, by the index on the model: those that show another one's flags than the active one's.
SELECT behind.property_id
FROM model
CROSS JOIN LATERAL (
    SELECT property_id
    FROM property_model
    WHERE model_id = model.id AND property_id > %(after)s
    ORDER BY property_id
    LIMIT %(limit)s
) AS behind
WHERE model.status <> 'active' AND EXISTS (SELECT FROM model WHERE status = 'active')
ORDER BY behind.property_id
LIMIT %(limit)s;

-- name: count_behind
-- Over all properties, by the index on the model.
SELECT count(*) AS properties
FROM property_model
JOIN model ON model.id = model_id AND model.status <> 'active';

-- name: properties_showing
-- Over all properties, by the index on the model.
SELECT count(*) AS properties FROM property_model WHERE model_id = %(model_id)s;

-- name: lock_model
SELECT id FROM model WHERE id = %(id)s FOR UPDATE;

-- name: lock_live_models
-- In the order in which embeddings and pairs lock them.
SELECT id FROM model WHERE status <> 'retired' ORDER BY id FOR NO KEY UPDATE;

-- name: deactivate_model
UPDATE model SET status = 'candidate' WHERE status = 'active';

-- name: activate_model
UPDATE model SET status = 'active', activated_at = now() WHERE id = %(id)s;

-- name: retire_model
UPDATE model SET status = 'retired' WHERE id = %(id)s;

-- name: purge_embeddings
-- Over all properties, in the order of the primary key. Whoever takes the model back waits, or is seen.
WITH retired AS (
    SELECT id FROM model WHERE id = %(model_id)s AND status = 'retired' FOR SHARE
), chosen AS (
    SELECT property_id, photo_id, model_id
    FROM photo_embedding
    WHERE (property_id, photo_id) > (%(after_property)s, %(after_id)s)
      AND model_id = (SELECT id FROM retired)
    ORDER BY property_id, photo_id
    LIMIT %(limit)s
), deleted AS (
    DELETE FROM photo_embedding
    USING chosen
    WHERE photo_embedding.property_id = chosen.property_id AND photo_embedding.photo_id = chosen.photo_id
      AND photo_embedding.model_id = chosen.model_id
    RETURNING photo_embedding.property_id, photo_embedding.photo_id
)
SELECT property_id, photo_id FROM deleted ORDER BY property_id, photo_id;

-- name: purge_pairs
-- Over all properties, as purge_embeddings; of a photo's pairs either all or none.
WITH retired AS (
    SELECT id FROM model WHERE id = %(model_id)s AND status = 'retired' FOR SHARE
), chosen AS (
    SELECT DISTINCT property_id, photo_a, model_id
    FROM pair
    WHERE (property_id, photo_a) > (%(after_property)s, %(after_id)s)
      AND model_id = (SELECT id FROM retired)
    ORDER BY property_id, photo_a
    LIMIT %(limit)s
), deleted AS (
    DELETE FROM pair
    USING chosen
    WHERE pair.property_id = chosen.property_id AND pair.photo_a = chosen.photo_a AND pair.model_id = chosen.model_id
    RETURNING pair.property_id, pair.photo_a AS photo_id
)
SELECT property_id, photo_id FROM deleted ORDER BY property_id, photo_id;

-- name: read_consistently
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: properties_to_compare
-- Over all properties, a page at a time.
SELECT property_id
FROM property_model
WHERE property_id > %(after)s AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
ORDER BY property_id
LIMIT %(limit)s;

-- name: pairs_to_compare
-- Over all properties, a page at a time.
SELECT property_id, model_id, photo_a, photo_b, score
FROM pair
JOIN model ON model.id = model_id AND score >= duplicate_threshold
WHERE property_id = ANY(%(properties)s) AND model_id = ANY(%(models)s);

-- name: verdicts_to_compare
-- Over all properties, a page at a time.
SELECT property_id, photo_a, photo_b, duplicate FROM verdict WHERE property_id = ANY(%(properties)s);

-- name: photos_to_compare
-- Over all properties, a page at a time, in the order of upload.
SELECT property_id, id AS photo_id, key,
    status = 'embedded' AND NOT (ARRAY(
        SELECT model_id
        FROM photo_embedding
        WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id
    ) @> %(models)s) AS lacks
FROM photo
WHERE property_id = ANY(%(properties)s) AND status <> 'removed'
ORDER BY property_id, uploaded_at, key, id;

-- name: lock_models
LOCK TABLE model IN SHARE ROW EXCLUSIVE MODE;

-- name: register_model
INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card, bundle_card,
                   bundle_tensors)
VALUES (%(id)s, %(digest)s, %(name)s, %(dims)s, %(duplicate_threshold)s, %(review_threshold)s, %(untrained)s,
        %(card)s, %(bundle_card)s, %(bundle_tensors)s)
ON CONFLICT (id) DO UPDATE
SET status = CASE model.status WHEN 'retired' THEN 'candidate' ELSE model.status END,
    bundle_card = excluded.bundle_card, bundle_tensors = excluded.bundle_tensors;

-- name: is_embedded_database
SELECT coalesce(current_setting('dedup.embedded', true), '') = 'on' AS embedded;

-- name: property_flags
SELECT property_id, key AS photo, duplicate_of_key AS duplicate_of, score, decided_by, since
FROM listing_duplicates
WHERE property_id = %(property_id)s
ORDER BY duplicate_of, photo;

-- name: all_flags
-- Over all properties: for the summary of a demo or a scan, on the embedded stack.
SELECT property_id, key AS photo, duplicate_of_key AS duplicate_of, score, decided_by, since
FROM listing_duplicates
ORDER BY property_id, duplicate_of, photo;

-- name: census
-- Over all properties: what a demo or a scan waits for, on the embedded stack.
SELECT property_id, key, etag, status = 'failed' OR (status = 'embedded' AND matched_at IS NOT NULL) AS settled
FROM photo
WHERE status <> 'removed';

-- name: failures
-- Over all properties: for the summary of a demo or a scan, on the embedded stack.
SELECT property_id, key, failure, failure_message
FROM photo
WHERE status = 'failed'
ORDER BY property_id, key;

-- name: lock_place
SELECT pg_advisory_xact_lock(hashtextextended('listing-dedup place ' || %(bucket)s || '/' || %(key)s, 0));

-- name: elsewhere
-- Over all properties, by the index on the key: a changed key pattern gives an object to another property.
SELECT property_id, id, etag, sequencer, occurred_at, bytes, revision
FROM photo
WHERE bucket = %(bucket)s AND key = %(key)s AND property_id <> %(property_id)s AND status <> 'removed';

-- name: carry_verdicts
-- Over two properties. A verdict goes along once both its photos are in the new property with the same content.
INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by, decided_at)
SELECT new.property_id, least(new.id, new_partner.id), greatest(new.id, new_partner.id),
    verdict.duplicate, verdict.decided_by, verdict.decided_at
FROM photo AS old
JOIN verdict ON verdict.property_id = old.property_id AND old.id IN (verdict.photo_a, verdict.photo_b)
JOIN photo AS old_partner ON old_partner.property_id = old.property_id
    AND old_partner.id = verdict.photo_a + verdict.photo_b - old.id
JOIN photo AS new ON new.property_id = %(property_id)s AND new.id = %(photo_id)s AND new.etag = old.etag
JOIN photo AS new_partner ON new_partner.property_id = new.property_id
    AND (new_partner.bucket, new_partner.key, new_partner.etag)
        = (old_partner.bucket, old_partner.key, old_partner.etag)
WHERE old.property_id = %(old_property_id)s AND old.id = %(old_photo_id)s AND old.etag <> ''
  AND old_partner.etag <> '' AND new_partner.status <> 'removed'
ON CONFLICT (property_id, photo_a, photo_b)
DO UPDATE SET duplicate = excluded.duplicate, decided_by = excluded.decided_by, decided_at = excluded.decided_at,
    applied_at = NULL
WHERE verdict.decided_at < excluded.decided_at;

-- name: remove_property
-- Events older than this moment change nothing any more, also where the store gives no sequencer.
UPDATE photo
SET status = 'removed', failure = 'property_removed', failure_message = NULL, matched_at = NULL,
    occurred_at = greatest(occurred_at, now()), updated_at = now()
WHERE property_id = %(property_id)s AND status <> 'removed'
RETURNING id;

-- name: drop_property_embeddings
DELETE FROM photo_embedding WHERE property_id = %(property_id)s;

-- name: drop_property_pairs
DELETE FROM pair WHERE property_id = %(property_id)s;

-- name: photos_after
-- Over all properties, a page at a time: what a changed key pattern may have moved.
SELECT property_id, id, bucket, key, etag, sequencer, occurred_at, bytes
FROM photo
WHERE (property_id, id) > (%(property_id)s, %(photo_id)s) AND status <> 'removed'
ORDER BY property_id, id
LIMIT %(limit)s;

-- name: record_verdict
SELECT record_verdict(%(property_id)s, %(key_a)s, %(key_b)s, %(duplicate)s, %(decided_by)s, %(bucket_a)s, %(bucket_b)s);

-- name: verdicts_applied
UPDATE verdict SET applied_at = now() WHERE property_id = %(property_id)s AND applied_at IS NULL;

-- name: verdicts_waiting
-- Over all properties, by the small partial index.
SELECT DISTINCT property_id FROM verdict WHERE applied_at IS NULL ORDER BY property_id LIMIT %(limit)s;

-- name: verdicts_with_photos
-- Over all properties: every verdict there is, to train on.
SELECT verdict.property_id, verdict.duplicate,
    a.id AS a_id, a.bucket AS a_bucket, a.key AS a_key, a.etag AS a_etag, a.sha256 AS a_sha256,
    a.status = 'removed' AS a_removed,
    b.id AS b_id, b.bucket AS b_bucket, b.key AS b_key, b.etag AS b_etag, b.sha256 AS b_sha256,
    b.status = 'removed' AS b_removed
FROM verdict
JOIN photo AS a ON a.property_id = verdict.property_id AND a.id = verdict.photo_a
JOIN photo AS b ON b.property_id = verdict.property_id AND b.id = verdict.photo_b
ORDER BY verdict.property_id, verdict.photo_a, verdict.photo_b;

-- name: notify_feed
SELECT pg_notify('listing_flag_feed', '');

-- name: failed_photos
-- Over all properties, by the small partial index: what `dedup dead-letters` lists.
SELECT property_id, id AS photo_id, key, failure AS reason, failure_message AS message, attempts,
    updated_at AS failed_at
FROM photo
WHERE status = 'failed' AND failure IS NOT NULL
  AND (%(reason)s::text IS NULL OR failure = %(reason)s)
  AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
ORDER BY updated_at DESC, property_id, id
LIMIT %(limit)s;

-- name: failure_counts
-- Over all properties, by the small partial index.
SELECT failure AS reason, count(*) AS photos
FROM photo
WHERE status = 'failed' AND failure IS NOT NULL
  AND (%(reason)s::text IS NULL OR failure = %(reason)s)
  AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
GROUP BY failure
ORDER BY photos DESC, reason;

-- name: put_back
-- Over all properties, by the small partial index.
WITH chosen AS (
    SELECT property_id, id
    FROM photo
    WHERE status = 'failed'
      AND (property_id, id) > (%(after_property)s, %(after_id)s)
      AND (%(reason)s::text IS NULL OR failure = %(reason)s)
      AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
    ORDER BY property_id, id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE photo
SET status = 'pending', failure = NULL, failure_message = NULL, attempts = 0, postponed = 0, updated_at = now()
FROM chosen
WHERE photo.property_id = chosen.property_id AND photo.id = chosen.id
RETURNING photo.property_id, photo.id AS photo_id, photo.revision;

-- name: rejections
SELECT id, received_at, reason, message
FROM rejected_event
WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: rejection
SELECT id, received_at, reason, message, body FROM rejected_event WHERE id = %(id)s;

-- name: rejection_ids
SELECT id FROM rejected_event WHERE %(reason)s::text IS NULL OR reason = %(reason)s ORDER BY id;

-- name: drop_rejection
DELETE FROM rejected_event WHERE id = %(id)s;

-- name: looked_at
-- Its attempt came to an end that was seen, unless it is held back for not having come to one.
UPDATE photo
SET attempts = CASE %(reason)s WHEN 'killed_worker' THEN attempts ELSE 0 END,
    postponed = CASE %(reason)s WHEN 'gave_up' THEN postponed ELSE 0 END, updated_at = now()
WHERE property_id = %(property_id)s AND id = %(photo_id)s AND revision = %(revision)s AND status = 'embedded';

-- name: backfill_start
INSERT INTO backfill (selection) VALUES (%(selection)s)
ON CONFLICT (selection) WHERE finished_at IS NULL
DO UPDATE SET updated_at = now()
RETURNING id, position, settled, total, started_at, updated_at AS resumed_at;

-- name: backfill_total
UPDATE backfill SET total = %(total)s, updated_at = now() WHERE id = %(id)s;

-- name: backfill_progress
UPDATE backfill SET position = %(position)s, settled = settled + %(settled)s, updated_at = now() WHERE id = %(id)s;

-- name: backfill_finish
UPDATE backfill SET finished_at = now(), updated_at = now() WHERE id = %(id)s;

-- name: backfill_forget
DELETE FROM backfill WHERE selection = %(selection)s AND finished_at IS NULL;

-- name: backfill_finished
SELECT max(finished_at) AS finished_at FROM backfill WHERE selection = %(selection)s;

-- name: backfill_forget_finished
DELETE FROM backfill WHERE selection = %(selection)s AND finished_at IS NOT NULL;

-- name: backfill_page
-- Over all properties, in the order of the primary key.
SELECT property_id, id AS photo_id, revision
FROM photo
WHERE (property_id, id) > (%(after_property)s, %(after_id)s)
  AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
  AND (%(since)s::timestamptz IS NULL OR uploaded_at >= %(since)s)
  AND CASE %(what)s
      WHEN 'failed' THEN status = 'failed'
      WHEN 'all' THEN status IN ('pending', 'embedded')
      ELSE status = 'pending' OR (status = 'embedded' AND NOT EXISTS (
          SELECT FROM photo_embedding
          WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id AND model_id = %(model_id)s
      ))
      END
ORDER BY property_id, id
LIMIT %(limit)s;

-- name: backfill_count
-- Over all properties; the condition is that of backfill_page.
SELECT count(*) AS photos
FROM photo
WHERE (property_id, id) > (%(after_property)s, %(after_id)s)
  AND (%(property_id)s::text IS NULL OR property_id = %(property_id)s)
  AND (%(since)s::timestamptz IS NULL OR uploaded_at >= %(since)s)
  AND CASE %(what)s
      WHEN 'failed' THEN status = 'failed'
      WHEN 'all' THEN status IN ('pending', 'embedded')
      ELSE status = 'pending' OR (status = 'embedded' AND NOT EXISTS (
          SELECT FROM photo_embedding
          WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id AND model_id = %(model_id)s
      ))
      END;

-- name: put_back_these
-- Photos of several properties, each by its key.
UPDATE photo
SET status = 'pending', failure = NULL, failure_message = NULL, attempts = 0, postponed = 0, updated_at = now()
FROM unnest(%(properties)s::text[], %(ids)s::bigint[], %(revisions)s::integer[]) AS chosen (property_id, id, revision)
WHERE photo.property_id = chosen.property_id AND photo.id = chosen.id AND photo.revision = chosen.revision
  AND photo.status = 'failed';

-- name: take_from_sweep
-- Photos of several properties, each by its key: what an outage postponed is waited for again.
UPDATE photo
SET postponed = 0, updated_at = now()
FROM unnest(%(properties)s::text[], %(ids)s::bigint[], %(revisions)s::integer[]) AS chosen (property_id, id, revision)
WHERE photo.property_id = chosen.property_id AND photo.id = chosen.id AND photo.revision = chosen.revision
  AND photo.status = 'pending' AND photo.postponed > 0;

-- name: backfill_standing
-- Photos of several properties, each by its key. One that an outage postponed is the sweep's.
SELECT count(*) FILTER (WHERE waits) AS unsettled, count(*) FILTER (WHERE gave_up AND NOT waits) AS postponed
FROM (
    SELECT photo.postponed > 0 AND (photo.status = 'pending' OR photo.matched_at IS NOT NULL) AS gave_up,
        (photo.status = 'pending' AND photo.postponed = 0)
        OR (photo.status = 'embedded' AND photo.updated_at < %(published_at)s AND (%(again)s OR NOT EXISTS (
            SELECT FROM photo_embedding
            WHERE photo_embedding.property_id = photo.property_id AND photo_id = photo.id
              AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s)
        ))) AS waits
    FROM unnest(%(properties)s::text[], %(ids)s::bigint[], %(revisions)s::integer[]) AS chosen (property_id, id, revision)
    JOIN photo USING (property_id, id, revision)
    WHERE photo.status IN ('pending', 'embedded')
) AS found;

-- name: known_objects
-- Over all properties: one page of a bucket against what is on record of it.
SELECT key, etag, status FROM photo WHERE bucket = %(bucket)s AND key COLLATE "C" = ANY(%(keys)s);

-- name: photos_of_bucket
-- Over all properties: what is on record of one part of a bucket, in the order in which S3 lists it.
SELECT property_id, id AS photo_id, revision, key
FROM photo
WHERE bucket = %(bucket)s AND key COLLATE "C" > %(after)s AND key COLLATE "C" <= %(last)s
  AND starts_with(key, %(prefix)s) AND status <> 'removed'
ORDER BY key COLLATE "C"
LIMIT %(limit)s;

-- name: monitor_unfinished
-- Over all properties, by the small partial index.
SELECT status, count(*) AS photos,
    count(*) FILTER (WHERE updated_at < now() - make_interval(secs => %(long_seconds)s)) AS long,
    count(*) FILTER (WHERE postponed > 0) AS postponed,
    greatest(extract(epoch FROM now() - min(updated_at)), 0)::float8 AS oldest_seconds
FROM (
    SELECT status, postponed, updated_at
    FROM photo
    WHERE status = 'pending' OR (status = 'embedded' AND matched_at IS NULL)
    ORDER BY updated_at
    LIMIT %(limit)s
) AS unfinished
GROUP BY status;

-- name: monitor_failed
-- Over all properties, by the small partial index, whose order keeps the planner to it.
SELECT failure AS reason, count(*) AS photos
FROM (
    SELECT coalesce(failure, 'unknown') AS failure FROM photo WHERE status = 'failed' ORDER BY property_id, id LIMIT %(limit)s
) AS failed
GROUP BY failure;

-- name: monitor_photos
-- Over all properties: only where they are few.
SELECT status, count(*) AS photos FROM photo GROUP BY status;

-- name: monitor_status
-- Over all properties; it is explained and never run.
SELECT FROM photo WHERE status = %(status)s;

-- name: monitor_rejected
SELECT count(*) AS rejected FROM (SELECT FROM rejected_event LIMIT %(limit)s) AS found;
