"""Tests that drive the real processes over a real broker, a real Postgres and a real S3 API."""
