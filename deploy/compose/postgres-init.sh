#!/bin/sh
# Run once, by the image's entry point, when the database is new: the logins that work and read. The roles that they
# are members of are given their rights by `dedup migrate`.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --set=app_password="$POSTGRES_APP_PASSWORD" --set=reader_password="$POSTGRES_READER_PASSWORD" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE dedup_worker NOLOGIN;
CREATE ROLE dedup_reader NOLOGIN;
CREATE ROLE dedup_editor NOLOGIN;
CREATE ROLE dedup_app LOGIN PASSWORD :'app_password' IN ROLE dedup_worker;
CREATE ROLE dedup_listing LOGIN PASSWORD :'reader_password' IN ROLE dedup_reader, dedup_editor;
SQL
