-- name: cells_to_recover()
-- Every cell that has not left Redis, those on sale first.
SELECT c.event_ref, c.cell, c.event_id, c.epoch, c.seq, c.replid
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.closed_at IS NULL
ORDER BY (e.status = 'published') DESC, e.sale_start_at, c.event_ref, c.cell;

-- name: lock_cell(event_ref, cell)^
-- The row lock under which a cell is looked at; the relay cannot move the offset meanwhile.
SELECT event_ref, cell, event_id, epoch, seq, replid FROM cells
WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL
FOR UPDATE;

-- name: find_cell(event_ref, cell)^
SELECT event_ref, cell, event_id, epoch, seq, replid FROM cells
WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL;

-- name: is_any_cell_elsewhere(replid)$
-- Whether some open cell was last opened on another node than this.
SELECT EXISTS (SELECT FROM cells WHERE closed_at IS NULL AND epoch > 0 AND replid IS DISTINCT FROM :replid);

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

-- name: bookings_to_rebuild(after, last, rows_max)
-- One slice of the bookings that Redis must know: the living, and the keyed, whose ids must not live twice.
SELECT b.*, (
    SELECT json_agg(json_build_array(i.zone_id, i.quantity, i.unit_price_minor, z.show_id) ORDER BY i.zone_id)::text
    FROM booking_items i JOIN seat_zones z ON z.id = i.zone_id
    WHERE i.booking_id = b.id
) AS items
FROM bookings b
WHERE b.id > :after AND b.id <= :last
  AND (b.status IN ('reserved', 'confirmed') OR b.fingerprint IS NOT NULL)
ORDER BY b.id
LIMIT :rows_max;

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
