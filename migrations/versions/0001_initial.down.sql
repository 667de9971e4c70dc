DROP VIEW listing_flag_feed, listing_duplicate_groups, listing_duplicates;
DROP TABLE rejected_event, flag_change, duplicate_flag, verdict, pair, photo_embedding, photo, model;
