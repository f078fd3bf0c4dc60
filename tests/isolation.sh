#!/usr/bin/env bash
# What tenants can do to each other, on PostgreSQL 15 and 18: through the proxy, and straight at its PostgreSQL.
# The mechanisms: isolation.sql (SQL by hand), and in isolation/: sessions.py (several sessions), proxied.py (what only
# a proxy has), exhaustion.py (B works while A uses up what they share). Flags: tools/isolation-sql --help.
exec "$(dirname "$(realpath "$0")")/tools/isolation-sql" "$@"
