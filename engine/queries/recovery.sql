-- name: cells_to_recover()
-- Every cell that has not left Redis, those on sale first.
SELECT c.event_ref, c.cell, c.event_id, c.epoch, c.seq, c.replid, c.fenced_at
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.closed_at IS NULL
ORDER BY (e.status = 'published') DESC, e.sale_start_at, c.event_ref, c.cell;

-- name: lock_cell(event_ref, cell)^
-- The row lock under which a cell is looked at; the relay cannot move the offset meanwhile.
SELECT event_ref, cell, event_id, epoch, seq, replid, fenced_at FROM cells
WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL
FOR UPDATE;

-- name: find_cell(event_ref, cell)^
SELECT event_ref, cell, event_id, epoch, seq, replid, fenced_at FROM cells
WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL;

-- name: is_everything_fenced()$
-- Whether an operator has closed everything.
SELECT EXISTS (SELECT FROM fence);

-- name: hold_fence()#
-- Until this transaction ends nobody closes everything: a lift that has looked may load the scripts.
LOCK TABLE fence IN SHARE MODE;

-- name: is_being_rebuilt(family, number)$
-- Whether an operator is just rebuilding the cell: the advisory lock is held, by whomever.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2
      AND classid = (:family::bigint)::oid AND objid = (:number::bigint)::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
);

-- name: is_committed(event_ref, cell, epoch, seq, booking_id, version, at)$
-- Whether the entry at this place is the one that was committed from there, and not another with its id.
SELECT EXISTS (
    SELECT FROM bookings
    WHERE id = :booking_id AND ledger_epoch = :epoch AND ledger_seq = :seq AND version = :version
      AND greatest(created_at, confirmed_at, ended_at) = :at
) OR EXISTS (
    SELECT FROM dead_letters
    WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :seq AND booking_id = :booking_id
);

-- name: begin_epoch(epoch, replid, event_ref, cell)!
UPDATE cells SET epoch = :epoch, seq = 0, replid = :replid, opened_at = now(), updated_at = now()
WHERE event_ref = :event_ref AND cell = :cell;

-- name: move_to_node(replid, event_ref, cell)!
-- A cell that stays closed, in the node that it is in now.
UPDATE cells SET replid = :replid, updated_at = now() WHERE event_ref = :event_ref AND cell = :cell;

-- name: find_sale(event_ref, cell)^
-- What the hash of the sale is made of.
SELECT e.status, e.sale_start_at, e.sale_end_at, e.max_per_user, e.hold_ttl_seconds, e.currency,
    encode(e.booking_secret, 'hex') AS secret, c.applied_version
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.event_ref = :event_ref AND c.cell = :cell;

-- name: find_zones(event_id)
-- What the hashes of the zones are made of.
SELECT id, show_id, kind, price_minor, max_per_order, capacity, available_seats, reserved, confirmed, blocked
FROM seat_zones WHERE event_id = :event_id ORDER BY created_at, id;

-- name: records_up_to(first, last, rows_max)$
-- How many records a cell must have in Redis, counted up to a bound.
SELECT count(*) FROM (
    SELECT FROM bookings
    WHERE id BETWEEN :first AND :last AND (status IN ('reserved', 'confirmed') OR fingerprint IS NOT NULL)
    LIMIT :rows_max
) AS found;

-- name: units_to_rebuild(after, last, rows_max)^
-- What buyers have in one slice of the sold bookings: '<user> <units> ...'; where it ends, and how many these are.
WITH slice AS MATERIALIZED (
    SELECT b.id, b.user_id, b.quantity FROM bookings b
    WHERE b.id > :after AND b.id <= :last AND b.status = 'confirmed'
    ORDER BY b.id
    LIMIT :rows_max
)
SELECT max(u.last_id) AS last_id, coalesce(sum(u.bookings), 0)::bigint AS bookings,
    string_agg(u.user_id || ' ' || u.units, ' ') AS text
FROM (
    SELECT s.user_id, sum(s.quantity) AS units, count(*) AS bookings, max(s.id::text) AS last_id
    FROM slice s GROUP BY s.user_id
) u;

-- name: records_to_rebuild(after, last, rows_max, has_holds, has_others)^
-- One slice of the bookings that Redis must know, the living, and the keyed, whose ids must not live twice: a line
-- for each, its id and the text of its record (see lua/lib/booking.lua). The holds, or the others, or both.
SELECT max(r.id::text) AS last_id, count(*) AS bookings,
    string_agg(concat_ws(' ', r.id, r.status, r.version, r.ledger_epoch || '-' || r.ledger_seq, r.user_id,
        coalesce(r.fingerprint, '-'), r.quantity, r.total_minor, r.currency,
        (extract(epoch FROM r.created_at) * 1000)::bigint, (extract(epoch FROM r.expires_at) * 1000)::bigint,
        coalesce(((extract(epoch FROM r.confirmed_at) * 1000)::bigint)::text, '-'),
        coalesce(((extract(epoch FROM r.ended_at) * 1000)::bigint)::text, '-'),
        coalesce(r.confirmation_code, '-'), '[' || coalesce(r.items, '') || ']'), E'\n' ORDER BY r.id) AS text
FROM (
    SELECT b.*, (
        SELECT string_agg(
            '["' || i.zone_id || '",' || i.quantity || ',' || i.unit_price_minor || ',"' || z.show_id || '"]', ','
            ORDER BY i.zone_id
        )
        FROM booking_items i JOIN seat_zones z ON z.id = i.zone_id
        WHERE i.booking_id = b.id
    ) AS items
    FROM bookings b
    WHERE b.id > :after AND b.id <= :last
      AND ((:has_holds AND b.status = 'reserved')
        OR (:has_others AND (b.status = 'confirmed' OR (b.status <> 'reserved' AND b.fingerprint IS NOT NULL))))
    ORDER BY b.id
    LIMIT :rows_max
) r;

-- name: clock_ms()$
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- name: repair_booking(id, event_id, user_id, status, version, fingerprint, quantity, total_minor, currency, created_at, expires_at, confirmed_at, ended_at, code, epoch, seq)!
-- Postgres was set back: take what Redis knows, unless the row is as new.
INSERT INTO bookings (id, event_id, user_id, status, version, fingerprint, quantity, total_minor, currency,
    created_at, expires_at, confirmed_at, ended_at, confirmation_code, ledger_epoch, ledger_seq)
VALUES (:id, :event_id, :user_id, :status, :version, :fingerprint, :quantity, :total_minor, :currency,
    :created_at, :expires_at, :confirmed_at, :ended_at, :code, :epoch, :seq)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, version = excluded.version,
    confirmed_at = excluded.confirmed_at, ended_at = excluded.ended_at,
    confirmation_code = excluded.confirmation_code, ledger_epoch = excluded.ledger_epoch,
    ledger_seq = excluded.ledger_seq, updated_at = now()
WHERE bookings.version < excluded.version;

-- name: repair_item(booking_id, zone_id, quantity, price)!
INSERT INTO booking_items (booking_id, zone_id, quantity, unit_price_minor)
VALUES (:booking_id, :zone_id, :quantity, :price) ON CONFLICT DO NOTHING;

-- name: repair_zone(capacity, available, reserved, confirmed, blocked, zone_id)!
UPDATE seat_zones SET capacity = :capacity, available_seats = :available, reserved = :reserved,
    confirmed = :confirmed, blocked = :blocked, updated_at = now()
WHERE id = :zone_id;

-- name: set_position(epoch, seq, version, event_ref, cell)!
UPDATE cells SET epoch = :epoch, seq = :seq, edit_version = greatest(edit_version, :version),
    applied_version = :version, updated_at = now()
WHERE event_ref = :event_ref AND cell = :cell;

-- name: finished_cells(retention_s)
-- Cells whose sale has been over, and whose ledger has been still, for longer than they are kept in Redis.
SELECT c.event_ref, c.cell
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.closed_at IS NULL AND c.epoch > 0
  AND (e.status = 'cancelled' OR e.sale_end_at IS NOT NULL)
  AND greatest(coalesce(e.sale_end_at, e.updated_at), c.updated_at) < now() - make_interval(secs => :retention_s)
LIMIT 10;

-- name: has_holds(first, last)$
-- Whether a cell has a hold that is not ended.
SELECT EXISTS (SELECT FROM bookings WHERE id BETWEEN :first AND :last AND status = 'reserved');

-- name: close_cell(event_ref, cell, epoch, seq)!
UPDATE cells SET closed_at = now() WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :seq;
