#!/usr/bin/env bash
# pgbench: its own tables, and its three ways of asking, with and without a connection per transaction.
# Every run of TPC-B is checked by its own books: the sums of all balances are equal. See tests/drivers/README.md.
set -euo pipefail
export PGHOST=$PGHOST_ PGPORT=$PGPORT_ PGUSER=$PGUSER_ PGDATABASE=postgres PGPASSWORD=$PGPASSWORD_
export PGSSLMODE=verify-full PGSSLROOTCERT=$ROOT_CERT PGCONNECT_TIMEOUT=20
q() { psql -X -w -At -v ON_ERROR_STOP=1 -c "$1"; }
is() { [ "$2" = "$3" ] || { echo "not ok $1: '$2', not '$3'"; exit 1; }; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Server-side generation, foreign keys; then the client-side one, which is a COPY.
pgbench -i -q -s 1 --foreign-keys -I dtGvpf >"$work/init" 2>&1 || { cat "$work/init"; exit 1; }
pgbench -i -q -s 1 >"$work/init" 2>&1 || { cat "$work/init"; exit 1; }
is rows "$(q 'select count(*), sum(abalance) from pgbench_accounts')" '100000|0'
echo ok verify-full

done_before=0
bench() { # name transactions clients×each option…
  local name=$1 wanted=$2
  shift 2
  pgbench -n "$@" >"$work/out" 2>&1 || { cat "$work/out"; echo "not ok $name"; exit 1; }
  if ! grep -q "number of transactions actually processed: $wanted/$wanted" "$work/out" ||
    ! grep -q 'number of failed transactions: 0 ' "$work/out" || grep -q -i 'error\|aborted' "$work/out"; then
    cat "$work/out"
    echo "not ok $name"
    exit 1
  fi
}
booked() { # transactions: as many more are in the books, and they agree
  done_before=$((done_before + $1))
  is books "$(q "select count(*) = $done_before and sum(delta) = (select sum(abalance) from pgbench_accounts)
    and sum(delta) = (select sum(tbalance) from pgbench_tellers) and sum(delta) = (select sum(bbalance) from pgbench_branches)
    from pgbench_history")" t
}
for mode in simple extended prepared; do
  bench "$mode" 600 -M "$mode" -c 6 -j 2 -t 100
  booked 600
  bench "$mode -S" 2400 -M "$mode" -S -c 8 -j 2 -t 300
  echo "ok $mode"
done
bench connect 40 -C -c 4 -j 2 -t 10
booked 40
bench 'connect -M prepared' 40 -C -M prepared -c 4 -j 2 -t 10
booked 40
echo ok connect

# A pipeline, in each of the ways that has one. A wrong answer divides by zero.
cat >"$work/pipeline.sql" <<'SQL'
\set n random(1, 100000)
\startpipeline
begin;
update pgbench_accounts set filler = :n where aid = :n;
select 1 / (filler::int = :n)::int from pgbench_accounts where aid = :n;
update pgbench_accounts set filler = '' where aid = :n;
select 1 / (count(*) = 1)::int from pgbench_accounts where aid = :n and filler = '';
end;
\endpipeline
SQL
for mode in extended prepared; do
  bench "pipeline $mode" 300 -M "$mode" -f "$work/pipeline.sql" -c 3 -j 1 -t 100
done
echo ok pipeline

# Serialization failures are tried again by pgbench, until all of them went through.
cat >"$work/serializable.sql" <<'SQL'
begin isolation level serializable;
select sum(bbalance) from pgbench_branches;
update pgbench_branches set filler = filler where bid = 1;
commit;
SQL
bench retries 120 -f "$work/serializable.sql" -c 4 -j 2 -t 30 --max-tries 1000
echo ok transaction
q 'drop table pgbench_history, pgbench_accounts, pgbench_tellers, pgbench_branches' >/dev/null
pgbench --version | sed 's/^/all /'
