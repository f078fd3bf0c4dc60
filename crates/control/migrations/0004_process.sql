-- Processes that may have server connections: a row stands from the start of a process until it is known
-- that it has none any more. Whoever needs the word of every proxy asks those of this table.
CREATE TABLE process (
    id text PRIMARY KEY CHECK (id ~ '^prc_[a-z][a-z0-9]{11}$'),
    -- Of the data directory: two of one instance never run at once.
    instance text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- It says so again and again. Later it may be gone, or only cut off from the catalog.
    alive_until timestamptz NOT NULL,
    -- Since when its session on the node is missing.
    absent_since timestamptz
);

-- A node whose server connections processes share. Its row is held by whoever changes their parts.
CREATE TABLE budget (
    node text PRIMARY KEY
);

CREATE TABLE budget_lease (
    node text NOT NULL REFERENCES budget,
    process_id text NOT NULL REFERENCES process ON DELETE CASCADE,
    -- What this process was told that there is for all. The least of them holds.
    budget integer NOT NULL CHECK (budget > 0),
    -- Nobody else may have these.
    held integer NOT NULL CHECK (held >= 0),
    -- It would use so many.
    needed integer NOT NULL CHECK (needed >= 0),
    PRIMARY KEY (node, process_id)
);

-- Nobody gets what another one has, whatever the program does.
CREATE FUNCTION budget_holds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM budget WHERE node = NEW.node FOR UPDATE;
    IF (SELECT sum(held) > min(budget) FROM budget_lease WHERE node = NEW.node) THEN
        RAISE check_violation USING MESSAGE = 'more server connections than there are',
            CONSTRAINT = 'budget_holds';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER budget_holds_new AFTER INSERT ON budget_lease
    FOR EACH ROW WHEN (NEW.held > 0) EXECUTE FUNCTION budget_holds();
CREATE TRIGGER budget_holds_more AFTER UPDATE ON budget_lease
    FOR EACH ROW WHEN (NEW.held > OLD.held) EXECUTE FUNCTION budget_holds();
