-- Anonymous projects that an address made within an hour. Counted for all processes; forgotten when the hour is over.
CREATE TABLE anonymous_pace (
    -- Of IPv6 a whole /64.
    address inet PRIMARY KEY,
    made integer NOT NULL CHECK (made > 0),
    since timestamptz NOT NULL
);
