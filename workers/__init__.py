"""What runs: ingest, embed, match, the embedded stack and the command line. No SQL in here."""
