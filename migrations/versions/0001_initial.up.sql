-- Every primary key, unique key and foreign key holds property_id (or points at the reference table
-- "model"), so that the tables can be distributed by it without a change.

CREATE EXTENSION IF NOT EXISTS vector;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dedup_worker') THEN
        CREATE ROLE dedup_worker NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dedup_reader') THEN
        CREATE ROLE dedup_reader NOLOGIN;
    END IF;
END
$$;

CREATE TABLE model (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    digest text NOT NULL UNIQUE,
    name text NOT NULL,
    dims integer NOT NULL CHECK (dims BETWEEN 1 AND 4000),
    duplicate_threshold real NOT NULL CHECK (duplicate_threshold BETWEEN 0 AND 1),
    review_threshold real NOT NULL CHECK (review_threshold BETWEEN 0 AND duplicate_threshold),
    untrained boolean NOT NULL,
    card jsonb NOT NULL,
    status text NOT NULL DEFAULT 'candidate' CHECK (status IN ('candidate', 'active', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz
);
CREATE UNIQUE INDEX model_one_active ON model (status) WHERE status = 'active';
COMMENT ON TABLE model IS 'Model bundles, named by their digest; at most one is active.';

CREATE TABLE photo (
    property_id text NOT NULL CHECK (octet_length(property_id) BETWEEN 1 AND 200),
    id bigint GENERATED ALWAYS AS IDENTITY,
    bucket text NOT NULL,
    key text NOT NULL,
    etag text NOT NULL,
    sequencer text NOT NULL,
    occurred_at timestamptz NOT NULL,
    uploaded_at timestamptz NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    status text NOT NULL CHECK (status IN ('pending', 'embedded', 'failed', 'removed')),
    failure text,
    failure_message text,
    attempts integer NOT NULL DEFAULT 0,
    postponed integer NOT NULL DEFAULT 0,
    width integer,
    height integer,
    bytes bigint,
    sha256 text,
    matched_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (property_id, id),
    UNIQUE (property_id, bucket, key)
);
-- The sweep looks for the few photos that are not done; the many that are stay out of the index.
CREATE INDEX photo_unfinished ON photo (updated_at)
    WHERE status = 'pending' OR (status = 'embedded' AND matched_at IS NULL);
COMMENT ON COLUMN photo.revision IS 'Counts the contents seen under this key.';
COMMENT ON COLUMN photo.occurred_at IS 'Time of the newest event applied; orders events where the store gives no sequencer.';
COMMENT ON COLUMN photo.uploaded_at IS 'When the current content was last uploaded; the earliest photo of a group is canonical.';
COMMENT ON COLUMN photo.attempts IS 'Attempts in a row whose end nobody saw: their process was lost.';
COMMENT ON COLUMN photo.postponed IS 'How often in a row all retries were used up, for a fault outside the photo.';

CREATE TABLE photo_embedding (
    property_id text NOT NULL,
    photo_id bigint NOT NULL,
    model_id text NOT NULL REFERENCES model (id),
    revision integer NOT NULL,
    embedding halfvec NOT NULL,
    PRIMARY KEY (property_id, photo_id, model_id),
    FOREIGN KEY (property_id, photo_id) REFERENCES photo (property_id, id) ON DELETE CASCADE
);
-- Not TOASTed: a neighbour scan reads each row once, in place.
ALTER TABLE photo_embedding ALTER COLUMN embedding SET STORAGE PLAIN;

CREATE TABLE pair (
    property_id text NOT NULL,
    photo_a bigint NOT NULL,
    photo_b bigint NOT NULL CHECK (photo_a < photo_b),
    model_id text NOT NULL REFERENCES model (id),
    similarity real NOT NULL,
    score real NOT NULL CHECK (score BETWEEN 0 AND 1),
    PRIMARY KEY (property_id, photo_a, photo_b, model_id),
    FOREIGN KEY (property_id, photo_a) REFERENCES photo (property_id, id) ON DELETE CASCADE,
    FOREIGN KEY (property_id, photo_b) REFERENCES photo (property_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE pair IS 'Pairs that score at or above their model''s review threshold.';

CREATE TABLE verdict (
    property_id text NOT NULL,
    photo_a bigint NOT NULL,
    photo_b bigint NOT NULL CHECK (photo_a < photo_b),
    duplicate boolean NOT NULL,
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (property_id, photo_a, photo_b),
    FOREIGN KEY (property_id, photo_a) REFERENCES photo (property_id, id) ON DELETE CASCADE,
    FOREIGN KEY (property_id, photo_b) REFERENCES photo (property_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE verdict IS 'A person''s word on a pair; it outlives every re-run and every model.';

CREATE TABLE duplicate_flag (
    property_id text NOT NULL,
    photo_id bigint NOT NULL,
    duplicate_of bigint NOT NULL CHECK (duplicate_of <> photo_id),
    score real NOT NULL CHECK (score BETWEEN 0 AND 1),
    model_id text NOT NULL REFERENCES model (id),
    decided_by text NOT NULL CHECK (decided_by IN ('model', 'person')),
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (property_id, photo_id),
    FOREIGN KEY (property_id, photo_id) REFERENCES photo (property_id, id) ON DELETE CASCADE,
    FOREIGN KEY (property_id, duplicate_of) REFERENCES photo (property_id, id) ON DELETE CASCADE
);

CREATE TABLE flag_change (
    property_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    photo_id bigint NOT NULL,
    duplicate_of bigint,
    score real,
    decided_by text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (property_id, id)
);
CREATE INDEX flag_change_position ON flag_change (transaction_id, id);
COMMENT ON TABLE flag_change IS 'Append-only: a row says what a photo is a duplicate of from now on, or NULL for nothing.';

CREATE TABLE rejected_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    message text NOT NULL,
    body text NOT NULL
);
COMMENT ON TABLE rejected_event IS 'Events that were not understood; of no property, so not distributed.';

CREATE VIEW listing_duplicates AS
SELECT
    flag.property_id,
    photo.bucket,
    photo.key,
    canonical.bucket AS duplicate_of_bucket,
    canonical.key AS duplicate_of_key,
    flag.score,
    flag.decided_by,
    flag.since,
    flag.photo_id,
    flag.duplicate_of AS duplicate_of_id
FROM duplicate_flag AS flag
JOIN photo ON photo.property_id = flag.property_id AND photo.id = flag.photo_id
JOIN photo AS canonical ON canonical.property_id = flag.property_id AND canonical.id = flag.duplicate_of;
COMMENT ON VIEW listing_duplicates IS 'One row a flag: this photo duplicates that one.';

CREATE VIEW listing_duplicate_groups AS
SELECT
    flag.property_id,
    canonical.bucket AS canonical_bucket,
    canonical.key AS canonical_key,
    count(*)::integer + 1 AS photos,
    array_agg(photo.key ORDER BY photo.key) AS duplicate_keys,
    min(flag.score) AS least_score,
    max(flag.since) AS changed_at,
    flag.duplicate_of AS canonical_id
FROM duplicate_flag AS flag
JOIN photo ON photo.property_id = flag.property_id AND photo.id = flag.photo_id
JOIN photo AS canonical ON canonical.property_id = flag.property_id AND canonical.id = flag.duplicate_of
GROUP BY flag.property_id, flag.duplicate_of, canonical.bucket, canonical.key;
COMMENT ON VIEW listing_duplicate_groups IS 'One row a group: the canonical photo and those flagged to it.';

-- A change becomes visible only when no older transaction can still commit one before it, so a reader
-- that remembers the last (transaction_id, id) it saw never misses a change that committed late.
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

REVOKE ALL ON model, photo, photo_embedding, pair, verdict, duplicate_flag, flag_change, rejected_event,
    listing_duplicates, listing_duplicate_groups, listing_flag_feed FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON model, photo, photo_embedding, pair, verdict, duplicate_flag,
    rejected_event TO dedup_worker;
GRANT SELECT, INSERT ON flag_change TO dedup_worker;
-- Postgres gives these to everybody: the reader is to read three views and nothing else.
DO $$
BEGIN
    EXECUTE 'REVOKE TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' FROM PUBLIC';
END
$$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT SELECT ON alembic_version TO dedup_worker;
GRANT SELECT ON listing_duplicates, listing_duplicate_groups, listing_flag_feed TO dedup_worker, dedup_reader;
