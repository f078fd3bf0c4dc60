-- A tenant whose new transactions wait in every process: one at a time. Over when its row is gone or its
-- time has passed, whatever became of who took it.
CREATE TABLE hold (
    id text PRIMARY KEY CHECK (id ~ '^hld_[a-z][a-z0-9]{11}$'),
    tenant_id text NOT NULL UNIQUE REFERENCES tenant ON DELETE CASCADE,
    -- Who took it.
    process_id text NOT NULL,
    -- What processes are to do now.
    step text NOT NULL CHECK (step IN ('drain', 'close', 'return')),
    -- Running transactions may go on until then.
    drain_until timestamptz NOT NULL,
    deadline timestamptz NOT NULL
);

-- What a process said: it has taken this step, or why it cannot.
CREATE TABLE hold_word (
    hold_id text NOT NULL REFERENCES hold ON DELETE CASCADE,
    process_id text NOT NULL REFERENCES process ON DELETE CASCADE,
    step text NOT NULL,
    -- Null: it has.
    kept text,
    may_pass boolean NOT NULL,
    PRIMARY KEY (hold_id, process_id, step)
);
