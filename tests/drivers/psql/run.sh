#!/usr/bin/env bash
# psql: the client everybody has. See tests/drivers/README.md.
set -euo pipefail
export PGPASSWORD=$PGPASSWORD_ PGCONNECT_TIMEOUT=20
base="host=$PGHOST_ port=$PGPORT_ user=$PGUSER_ dbname=postgres"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
q() { psql -X -w -At -v ON_ERROR_STOP=1 -d "$base sslmode=$1" "${@:2}"; }
is() { [ "$2" = "$3" ] || { echo "not ok $1: '$2', not '$3'"; exit 1; }; }

is require "$(q require -c 'select 1')" 1 && echo ok require
is verify-full "$(q "verify-full sslrootcert=$ROOT_CERT" -c 'select 2')" 2 && echo ok verify-full
if PGPASSWORD=$PGPASSWORD_ q disable -c 'select 1' 2>"$work/plain"; then echo 'not ok plain'; exit 1; fi
grep -q -i 'tls\|ssl\|encrypt' "$work/plain" || { cat "$work/plain"; echo 'not ok plain: does not say why'; exit 1; }
echo ok plain-refused

types=$(q require -c "select 7::int2, 1.50::numeric, 'naïve €', '\x00ff'::bytea, true, null, array[1,2], '{\"a\":1}'::jsonb")
is types "$types" '7|1.50|naïve €|\x00ff|t||{1,2}|{"a": 1}' && echo ok types

is prepared "$(q require -q -c "prepare p(int) as select \$1 + 1; execute p(1); execute p(41)")" $'2\n42' && echo ok prepared

q require -q -c 'create table psql_t (id int primary key, v text)'
is transaction "$(q require -q <<<"begin; insert into psql_t values (1, 'a'); rollback; select count(*) from psql_t;")" 0
echo ok transaction

code=0
q require -v VERBOSITY=verbose -c 'select * from nowhere' 2>"$work/error" || code=$?
is errors "$code" 1
grep -q 42P01 "$work/error" && echo ok errors

# psql sends a cancel when it is interrupted. Statements of one's own sessions are seen as oneself,
# not as the group whose rights a session has.
psql -X -w -At -d "$base sslmode=require" -c 'select pg_sleep(60)' >"$work/out" 2>"$work/cancel" &
client=$!
for _ in $(seq 200); do
  [ "$(q require -q -c 'set role none' -c "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'")" = 1 ] && break
done
kill -INT "$client"
code=0
wait "$client" || code=$?
grep -q 'canceling statement due to user request' "$work/cancel" && echo ok cancel

seq 1 20000 | sed 's/.*/&\trow &/' | q require -q -c '\copy psql_t from stdin'
is copy "$(q require -c 'copy (select * from psql_t order by id) to stdout' | md5sum)" "$(seq 1 20000 | sed 's/.*/&\trow &/' | md5sum)"
echo ok copy

is big-value "$(q require -c "select repeat('x', 50000000)" | wc -c)" 50000001 && echo ok big-value

if PGPASSWORD=wrong q require -c 'select 1' 2>"$work/wrong"; then echo 'not ok wrong-password'; exit 1; fi
grep -q 'authentication failed' "$work/wrong" && echo ok wrong-password

# Whoever listens hears what came before their next statement ended.
heard=$(q require -q <<'SQL'
listen psql_c;
notify psql_c, 'hello';
select 1 \g /dev/null
SQL
)
grep -q 'Asynchronous notification "psql_c" with payload "hello" received' <<<"$heard" && echo ok notify

# A connection that was ended says why; the next one, and one made anew by the same psql, goes on.
code=0
q require -q -c 'set role none' -c 'select pg_terminate_backend(pg_backend_pid())' >"$work/out" 2>"$work/ended" || code=$?
is reconnect "$code" 2
grep -q 'terminating connection due to administrator command' "$work/ended"
is reconnect "$(q require -q -c 'select 1' -c '\c' -c 'select count(*) from psql_t' | grep -v '^You are now' | tr '\n' ' ')" '1 20000 ' && echo ok reconnect

q require -q -c 'drop table psql_t'
psql --version | sed 's/^/all /'
