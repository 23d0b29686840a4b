-- migrate:up

CREATE TABLE tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,100}$'),
    settings jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid REFERENCES tenants (id),
    email text NOT NULL UNIQUE CHECK (email = lower(email)),
    password_hash text NOT NULL,
    full_name text NOT NULL CHECK (length(full_name) BETWEEN 1 AND 255),
    role text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'organizer', 'admin')),
    email_verified boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX users_tenant ON users (tenant_id);

-- A family is what one login leads to. A token is kept as a hash; the newest of a family has no used_at.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    family_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation integer NOT NULL CHECK (generation >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);

CREATE TABLE categories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,100}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- tenant_id and organizer_id come from a verified token, whose issuer need not be us: no foreign keys.
CREATE TABLE events (
    id uuid PRIMARY KEY,
    tenant_id uuid,
    organizer_id uuid NOT NULL,
    category_id uuid REFERENCES categories (id),
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 255),
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,100}$'),
    description text,
    venue text,
    image_url text,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'paused', 'cancelled')),
    sale_start_at timestamptz NOT NULL,
    sale_end_at timestamptz CHECK (sale_end_at > sale_start_at),
    max_per_user integer NOT NULL DEFAULT 4 CHECK (max_per_user >= 1),
    hold_ttl_seconds integer NOT NULL DEFAULT 600 CHECK (hold_ttl_seconds BETWEEN 1 AND 3600),
    refund_policy jsonb NOT NULL DEFAULT '[{"days_before": 7, "percent": 100}, {"days_before": 3, "percent": 50}]',
    waiting_room jsonb,
    -- The key of the hash that turns (user, Idempotency-Key) into a booking id. Never changes.
    booking_secret bytea NOT NULL CHECK (length(booking_secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_listed ON events (status, created_at DESC);
CREATE INDEX events_tenant ON events (tenant_id, created_at DESC);
CREATE INDEX events_sale_start ON events (sale_start_at);

CREATE TABLE shows (
    id uuid PRIMARY KEY,
    event_id uuid NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    show_date timestamptz NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX shows_event ON shows (event_id);
CREATE INDEX shows_date ON shows (show_date);

-- The inventory. Once its event is published, only the relay writes the counters.
CREATE TABLE seat_zones (
    id uuid PRIMARY KEY,
    show_id uuid NOT NULL REFERENCES shows (id) ON DELETE CASCADE,
    event_id uuid NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    kind text NOT NULL DEFAULT 'counted' CHECK (kind IN ('counted')),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    max_per_order integer NOT NULL DEFAULT 10 CHECK (max_per_order >= 1),
    capacity integer NOT NULL CHECK (capacity >= 0),
    available_seats integer NOT NULL CHECK (available_seats >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    confirmed integer NOT NULL DEFAULT 0 CHECK (confirmed >= 0),
    blocked integer NOT NULL DEFAULT 0 CHECK (blocked >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT seat_zones_add_up CHECK (available_seats + reserved + confirmed + blocked = capacity)
);
CREATE INDEX seat_zones_show ON seat_zones (show_id);
CREATE INDEX seat_zones_event ON seat_zones (event_id);

-- One row for each cell that was ever published: where its ledger stands in Postgres.
CREATE TABLE cells (
    event_ref bigint NOT NULL CHECK (event_ref BETWEEN 0 AND 281474976710655),
    cell integer NOT NULL CHECK (cell BETWEEN 0 AND 4095),
    event_id uuid NOT NULL REFERENCES events (id),
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0), -- 0: not opened yet
    seq bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),     -- the last entry of that epoch that is durable
    replid text,                                        -- replication id of the node that recovery opened
    edit_version bigint NOT NULL DEFAULT 0 CHECK (edit_version >= 0),    -- the newest intent in edits
    applied_version bigint NOT NULL DEFAULT 0 CHECK (applied_version >= 0), -- the newest that the ledger brought back
    opened_at timestamptz,
    closed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_ref, cell),
    CHECK (applied_version <= edit_version)
);

-- The key names the event and the cell, so a range scan of it finds a cell's bookings.
-- user_id is whoever a valid token named: no foreign key to our accounts.
CREATE TABLE bookings (
    id uuid PRIMARY KEY,
    event_id uuid NOT NULL,
    user_id uuid NOT NULL,
    status text NOT NULL CHECK (status IN ('reserved', 'confirmed', 'cancelled', 'expired')),
    version integer NOT NULL CHECK (version >= 1),
    fingerprint text, -- of the request, where it carried an Idempotency-Key
    quantity integer NOT NULL CHECK (quantity >= 1),
    total_minor bigint NOT NULL CHECK (total_minor >= 0),
    currency text NOT NULL,
    expires_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    ended_at timestamptz,
    confirmation_code text,
    ledger_epoch bigint NOT NULL,
    ledger_seq bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bookings_confirmed CHECK (status <> 'confirmed' OR (confirmed_at IS NOT NULL AND confirmation_code IS NOT NULL)),
    CONSTRAINT bookings_confirmed_in_time CHECK (confirmed_at IS NULL OR confirmed_at < expires_at),
    CONSTRAINT bookings_reserved CHECK (status <> 'reserved' OR (confirmed_at IS NULL AND ended_at IS NULL)),
    CONSTRAINT bookings_ended CHECK ((status IN ('cancelled', 'expired')) = (ended_at IS NOT NULL)),
    CONSTRAINT bookings_expired_late CHECK (status <> 'expired' OR ended_at >= expires_at)
);
CREATE INDEX bookings_user ON bookings (user_id, created_at DESC);

CREATE TABLE booking_items (
    booking_id uuid NOT NULL REFERENCES bookings (id) ON DELETE CASCADE,
    zone_id uuid NOT NULL,
    quantity integer NOT NULL CHECK (quantity >= 1),
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
    PRIMARY KEY (booking_id, zone_id)
);

CREATE TABLE payments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    booking_id uuid NOT NULL REFERENCES bookings (id),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor BETWEEN 0 AND amount_minor),
    currency text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN
        ('pending', 'authorized', 'succeeded', 'failed', 'cancelled', 'refund_pending', 'refunded')),
    payment_method text,
    provider text,
    transaction_id text,
    failed_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payments_booking ON payments (booking_id);
CREATE INDEX payments_unfinished ON payments (updated_at) WHERE status IN ('pending', 'authorized', 'refund_pending');

CREATE TABLE audit_logs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid,
    action text NOT NULL,
    entity_type text,
    entity_id uuid,
    old_values jsonb,
    new_values jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;

-- Domain events to publish. Emptied by deletion; ids are not in commit order, so never read it by "id > last".
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_type text NOT NULL,
    aggregate_id uuid NOT NULL,
    version bigint NOT NULL, -- of the aggregate: a consumer drops what it has seen
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What an organizer wants of a published cell, in order; applied by script, known to be applied by the ledger.
CREATE TABLE edits (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    intent jsonb NOT NULL,
    requested_by uuid,
    outcome text CHECK (outcome IN ('applied', 'refused')),
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    PRIMARY KEY (event_ref, cell, version),
    FOREIGN KEY (event_ref, cell) REFERENCES cells (event_ref, cell),
    CHECK ((outcome IS NULL) = (decided_at IS NULL))
);

-- Ledger entries that Postgres refused, and every later entry of the same booking.
CREATE TABLE dead_letters (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    booking_id uuid,
    entry jsonb NOT NULL,
    sqlstate text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    returned_at timestamptz, -- when the script had given its seats back
    PRIMARY KEY (event_ref, cell, epoch, seq)
);
CREATE INDEX dead_letters_booking ON dead_letters (booking_id);
CREATE INDEX dead_letters_to_return ON dead_letters (created_at) WHERE returned_at IS NULL;

-- migrate:down

DROP TABLE dead_letters, edits, outbox, audit_logs, payments, booking_items, bookings, cells, seat_zones, shows,
    events, categories, refresh_tokens, users, tenants;
