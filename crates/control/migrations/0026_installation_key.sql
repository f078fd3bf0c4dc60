-- Which installation.key belongs to this catalog. Nothing of the key follows from its fingerprint.
CREATE TABLE installation_key (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    noted_at timestamptz NOT NULL DEFAULT now()
);
