-- The bundle's own two files, so that whoever decides by a model has it from where its embeddings are.
ALTER TABLE model ADD COLUMN bundle_card bytea, ADD COLUMN bundle_tensors bytea;
-- Numbers of half precision hardly get smaller, and it is read whole.
ALTER TABLE model ALTER COLUMN bundle_tensors SET STORAGE EXTERNAL;
ALTER TABLE model ADD CONSTRAINT model_bundle_whole CHECK ((bundle_card IS NULL) = (bundle_tensors IS NULL));
COMMENT ON COLUMN model.bundle_card IS 'bundle.json; NULL in a row from before, until a worker that has the bundle starts.';
COMMENT ON COLUMN model.bundle_tensors IS 'bundle.safetensors.';

CREATE TABLE property_model (
    property_id text PRIMARY KEY,
    model_id text NOT NULL REFERENCES model (id)
);
CREATE INDEX property_model_shown ON property_model (model_id, property_id);
COMMENT ON TABLE property_model IS 'Whose flags a property shows; it follows the active model once all its photos are matched by it.';
INSERT INTO property_model (property_id, model_id)
SELECT DISTINCT photo.property_id, model.id FROM photo JOIN model ON model.status = 'active';

CREATE OR REPLACE VIEW listing_review AS
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
JOIN property_model ON property_model.property_id = pair.property_id AND property_model.model_id = pair.model_id
JOIN model ON model.id = pair.model_id AND pair.score < model.duplicate_threshold
JOIN photo AS a ON a.property_id = pair.property_id AND a.id = pair.photo_a
JOIN photo AS b ON b.property_id = pair.property_id AND b.id = pair.photo_b
WHERE NOT EXISTS (
    SELECT FROM verdict
    WHERE verdict.property_id = pair.property_id AND verdict.photo_a = pair.photo_a AND verdict.photo_b = pair.photo_b
);

REVOKE ALL ON property_model FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON property_model TO dedup_worker;
