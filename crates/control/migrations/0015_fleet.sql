-- Server connections of a process's proxy, as it said last.
CREATE TABLE insight_process (
    process_id text PRIMARY KEY REFERENCES process ON DELETE CASCADE,
    servers bigint NOT NULL CHECK (servers >= 0),
    -- Of them, those that nobody uses.
    idle bigint NOT NULL CHECK (idle >= 0)
) WITH (fillfactor = 70);

-- How long making databases took, by the hour: a ring, to which all processes add.
CREATE TABLE insight_made (
    -- The number of the hour since 1970, modulo the places of the ring.
    place smallint PRIMARY KEY CHECK (place >= 0),
    slot bigint NOT NULL,
    -- Microseconds all together, and then how often it took how long by the bounds of
    -- `model::insight::BOUNDS_US`.
    counts bigint[] NOT NULL
) WITH (fillfactor = 70);
