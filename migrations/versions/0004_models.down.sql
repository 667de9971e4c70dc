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
JOIN model ON model.id = pair.model_id AND model.status = 'active' AND pair.score < model.duplicate_threshold
JOIN photo AS a ON a.property_id = pair.property_id AND a.id = pair.photo_a
JOIN photo AS b ON b.property_id = pair.property_id AND b.id = pair.photo_b
WHERE NOT EXISTS (
    SELECT FROM verdict
    WHERE verdict.property_id = pair.property_id AND verdict.photo_a = pair.photo_a AND verdict.photo_b = pair.photo_b
);
DROP TABLE property_model;
ALTER TABLE model DROP CONSTRAINT model_bundle_whole, DROP COLUMN bundle_card, DROP COLUMN bundle_tensors;
