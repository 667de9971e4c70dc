#!/bin/sh
# Fills the passwords into the definitions, which RabbitMQ reads at each start, then starts it: so no password stands
# in a file of the repository, and a changed one holds from the next start on.
set -eu
umask 077
here=$(dirname "$0")
# A password is letters and digits (see .env.example); anything else could break out of the JSON.
for password in "$RABBITMQ_PASSWORD" "$RABBITMQ_STORE_PASSWORD"; do
    case $password in
        '' | *[!A-Za-z0-9]*) echo "RABBITMQ_PASSWORD and RABBITMQ_STORE_PASSWORD: letters and digits only" >&2; exit 78 ;;
    esac
done
sed -e "s/@RABBITMQ_PASSWORD@/$RABBITMQ_PASSWORD/" -e "s/@RABBITMQ_STORE_PASSWORD@/$RABBITMQ_STORE_PASSWORD/" \
    "$here/rabbitmq-definitions.json" > "$DEFINITIONS"
exec "$@"
