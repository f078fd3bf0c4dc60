#!/usr/bin/env bash
# pg_dump and pg_restore through the proxy: everything a schema may hold, in each format, and back again.
# What was restored is dumped once more and must be the same text. See tests/drivers/README.md.
set -euo pipefail
export PGHOST=$PGHOST_ PGPORT=$PGPORT_ PGUSER=$PGUSER_ PGDATABASE=postgres PGPASSWORD=$PGPASSWORD_
export PGSSLMODE=verify-full PGSSLROOTCERT=$ROOT_CERT PGCONNECT_TIMEOUT=20
q() { psql -X -w -At -v ON_ERROR_STOP=1 "$@"; }
is() { [ "$2" = "$3" ] || { echo "not ok $1: '$2', not '$3'"; exit 1; }; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

q -q <<'SQL'
create schema dump;
set search_path = dump;
create type mood as enum ('sad', 'ok');
create domain positive as int check (value > 0);
create table people (
  id bigint generated always as identity primary key, name text not null unique, feels mood default 'ok', age positive,
  facts jsonb, raw bytea, initial text generated always as (left(name, 1)) stored, born timestamptz, tags text[]);
create table parts (id int, at date not null, v text, primary key (id, at)) partition by range (at);
create table parts_2023 partition of parts for values from ('2023-01-01') to ('2024-01-01');
create table parts_rest partition of parts default;
create table owned (person bigint references people on delete cascade, n numeric(10, 3));
create index on people using gin (facts);
create index on people (lower(name)) where age > 10;
create view grown as select name, age from people where age >= 18;
create materialized view counted as select count(*) as n from parts;
create sequence numbers start 100 increment 5;
create function twice(int) returns int language sql immutable as 'select $1 * 2';
create procedure clean() language plpgsql as $$ begin delete from owned where n is null; end $$;
create function stamp() returns trigger language plpgsql as $$ begin new.born := coalesce(new.born, '2000-01-01'); return new; end $$;
create trigger stamp before insert on people for each row execute function stamp();
create rule nothing as on delete to parts where old.id = -1 do instead nothing;
comment on table people is 'naïve € 🐘 ''quoted'' \';
insert into people (name, feels, age, facts, raw, tags)
  select 'name ' || n || E' ü\t\n\\', case when n % 2 = 0 then 'sad' end::mood, n, jsonb_build_object('n', n), sha256(n::text::bytea), array['a', null, 'b,}']
  from generate_series(1, 20000) n;
insert into parts select n, '2023-06-01'::date + n % 400, repeat('x', n % 50) from generate_series(1, 30000) n;
insert into owned select id, id / 7.0 from people where id % 3 = 0;
refresh materialized view counted;
select setval('numbers', 200) \g /dev/null
alter table people enable row level security;
create policy mine on people using (true);
SQL
# A large object too.
q -q -c "select lo_from_bytea(424242, sha256('large'))" >/dev/null

sums() {
  q -c "select md5(string_agg(p::text, '|' order by id)) from dump.people p" -c "select md5(string_agg(p::text, '|' order by id)) from dump.parts p" \
    -c "select md5(string_agg(o::text, '|' order by person)) from dump.owned o" -c 'select n from dump.counted' -c "select last_value from dump.numbers" \
    -c "select initial, dump.twice(21), (select count(*) from dump.grown) from dump.people order by id limit 1" -c "select encode(lo_get(424242), 'hex')" \
    -c "select relrowsecurity from pg_class where oid = 'dump.people'::regclass" -c "select obj_description('dump.people'::regclass)"
}
before=$(sums)
# Without privileges: those of the database are the platform's, and not a tenant's to give.
dump() { pg_dump -w --no-owner --no-privileges "$@"; }
restore() { pg_restore -w --no-owner --no-privileges --exit-on-error -d postgres "$@"; }
# The word that \restrict takes is another one in each run.
plain() { dump | grep -v '^\\\(un\)\?restrict '; }
plain >"$work/before.sql"
grep -q 'CREATE TRIGGER stamp' "$work/before.sql" && grep -q 'PARTITION BY RANGE' "$work/before.sql"
echo ok verify-full

clear() { q -q -c 'set client_min_messages = error' -c 'drop schema dump cascade' -c 'select lo_unlink(424242)' >/dev/null; }
back() { # name: what was restored is what was dumped
  is "$1: data" "$(sums)" "$before"
  plain >"$work/after.sql"
  diff "$work/before.sql" "$work/after.sql" >"$work/diff" || { head -40 "$work/diff"; echo "not ok $1"; exit 1; }
  echo "ok $1"
}

clear
q -q -f "$work/before.sql" >/dev/null
back plain

dump -Fc -f "$work/custom"
clear
restore "$work/custom"
back custom

# Several connections that share one snapshot; then several that load beside each other.
dump -Fd -j 3 -f "$work/directory"
clear
restore -j 3 "$work/directory"
back parallel

# As rows of INSERT, in one transaction.
dump -Ft --rows-per-insert=100 -f "$work/tar"
clear
restore --single-transaction "$work/tar"
back single-transaction

clear
pg_dump --version | sed 's/^/all /'
