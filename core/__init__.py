"""What listing-dedup knows: photos, embeddings, pairs, groups. No broker in here."""
