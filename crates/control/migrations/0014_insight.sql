-- What tenants' statements did: for each tenant and each grain of time a ring of a fixed number of places, so
-- that it takes the same room for ever. Processes add up what they counted.
CREATE TABLE insight_slot (
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    -- 1: ten seconds, 2: a minute, 3: an hour.
    grain smallint NOT NULL CHECK (grain BETWEEN 1 AND 3),
    -- Its number since 1970, modulo the places of the ring.
    place smallint NOT NULL CHECK (place >= 0),
    slot bigint NOT NULL,
    -- Numbers of `model::insight::Counts`, in its order. New ones come last.
    counts bigint[] NOT NULL,
    PRIMARY KEY (tenant_id, grain, place)
) WITH (fillfactor = 70);

-- The same since the tenant was made, and when it was in use last.
CREATE TABLE insight_tenant (
    tenant_id text PRIMARY KEY REFERENCES tenant ON DELETE CASCADE,
    active_at timestamptz NOT NULL DEFAULT now(),
    counts bigint[] NOT NULL,
    -- Whether it has rows in insight_slot. They go when none of them counts any more.
    has_slots boolean NOT NULL DEFAULT true
) WITH (fillfactor = 70);

-- Who is connected where now, as the process said last.
CREATE TABLE insight_client (
    process_id text NOT NULL REFERENCES process ON DELETE CASCADE,
    tenant_id text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    clients integer NOT NULL CHECK (clients >= 0),
    servers integer NOT NULL CHECK (servers >= 0),
    PRIMARY KEY (process_id, tenant_id)
);
CREATE INDEX insight_client_tenant ON insight_client (tenant_id);

CREATE FUNCTION insight_sum(one bigint[], other bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY n)
    FROM unnest(one, other) WITH ORDINALITY AS numbers (a, b, n)
$$;
