-- migrate:up

-- One row for each cell whose event has a waiting room: how far its queue is, and its draw. The relay writes what
-- the ledger says; what belongs to the draw is written before the ledger says that it took place.
CREATE TABLE waiting_rooms (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    mode text NOT NULL CHECK (mode IN ('open', 'lottery')),
    tail integer NOT NULL DEFAULT 0 CHECK (tail >= 0),       -- the highest number given, or left out as a gap
    serving integer NOT NULL DEFAULT 0 CHECK (serving >= 0), -- the highest place that may enter
    gaps text NOT NULL DEFAULT '', -- '<first>-<last> ...': numbers that may have been given out and were lost
    admitted bigint NOT NULL DEFAULT 0 CHECK (admitted >= 0),
    claimed bigint NOT NULL DEFAULT 0 CHECK (claimed >= 0),
    spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    units bigint NOT NULL DEFAULT 0 CHECK (units >= 0),      -- seats reserved with passes
    lapsed bigint NOT NULL DEFAULT 0 CHECK (lapsed >= 0),
    entrants integer CHECK (entrants >= 0),                  -- numbers that took part in the draw
    frozen_at timestamptz,
    frozen_epoch bigint,
    frozen_seq bigint,
    drawn_at timestamptz,
    public_round text,
    seed bytea CHECK (length(seed) = 32),
    commitment bytea CHECK (length(commitment) = 32),
    randomness bytea,
    signature bytea,
    root bytea CHECK (length(root) = 32),
    key bytea CHECK (length(key) = 32),
    PRIMARY KEY (event_ref, cell),
    FOREIGN KEY (event_ref, cell) REFERENCES cells (event_ref, cell),
    CONSTRAINT waiting_rooms_serving CHECK (serving <= tail),
    CONSTRAINT waiting_rooms_entrants CHECK (entrants <= tail),
    CONSTRAINT waiting_rooms_frozen CHECK ((frozen_at IS NULL) = (entrants IS NULL)),
    CONSTRAINT waiting_rooms_committed CHECK (mode <> 'lottery' OR (seed IS NOT NULL AND commitment IS NOT NULL)),
    CONSTRAINT waiting_rooms_drawn CHECK (drawn_at IS NULL OR (entrants IS NOT NULL AND key IS NOT NULL))
);

-- Everybody who was ever given a number; the key keeps a number from being given twice. There are a million at once,
-- so there is no other index, and an ended one stays in its page.
CREATE TABLE queue_places (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    user_id uuid NOT NULL,
    joined_at timestamptz NOT NULL,
    ended_at timestamptz, -- they left, or their pass ran out
    PRIMARY KEY (event_ref, cell, number)
) WITH (fillfactor = 90);

-- The newest pass that each person claimed.
CREATE TABLE queue_passes (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    user_id uuid NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    place integer NOT NULL CHECK (place >= 1),
    claimed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    booking_id uuid,      -- on what it was spent
    ended_at timestamptz, -- it ran out, or its owner left
    PRIMARY KEY (event_ref, cell, user_id)
) WITH (fillfactor = 85);

-- How many were let in together, and when: their slots are kept for a while from then on.
CREATE TABLE queue_waves (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    to_place integer NOT NULL,
    from_place integer NOT NULL CHECK (from_place >= 1),
    people integer NOT NULL CHECK (people >= 0),
    served_at timestamptz NOT NULL,
    PRIMARY KEY (event_ref, cell, to_place),
    CHECK (from_place <= to_place)
);

-- The Merkle tree of the entrants, as far as it is kept: the root of each run of leaves.
CREATE TABLE lottery_chunks (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    chunk integer NOT NULL CHECK (chunk >= 0),
    root bytea NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (event_ref, cell, chunk),
    FOREIGN KEY (event_ref, cell) REFERENCES waiting_rooms (event_ref, cell)
);

-- migrate:down

DROP TABLE lottery_chunks, queue_waves, queue_passes, queue_places, waiting_rooms;
