#!/usr/bin/env bash
# What tenants can do to each other inside PostgreSQL, by SQL, on 15 and 18.
# The mechanisms: isolation/attacks.sql and isolation/sessions.py. Flags: tools/isolation-sql --help.
exec "$(dirname "$(realpath "$0")")/tools/isolation-sql" "$@"
