-- name: advance_offset(to_seq, event_ref, cell, epoch, from_seq)!
-- The compare-and-set that makes every entry count exactly once; anything but one row means: not ours.
UPDATE cells SET seq = :to_seq, updated_at = now()
WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :from_seq;

-- name: insert_bookings(ids, event_ids, user_ids, statuses, versions, fingerprints, quantities, totals, currencies, created_ats, expires_ats, confirmed_ats, ended_ats, codes, epochs, seqs)!
-- Bookings that were reserved in this batch, as the batch leaves them.
INSERT INTO bookings (id, event_id, user_id, status, version, fingerprint, quantity, total_minor, currency,
    created_at, expires_at, confirmed_at, ended_at, confirmation_code, ledger_epoch, ledger_seq)
SELECT * FROM unnest(:ids::uuid[], :event_ids::uuid[], :user_ids::uuid[], :statuses::text[], :versions::int[],
    :fingerprints::text[], :quantities::int[], :totals::bigint[], :currencies::text[],
    :created_ats::timestamptz[], :expires_ats::timestamptz[], :confirmed_ats::timestamptz[],
    :ended_ats::timestamptz[], :codes::text[], :epochs::bigint[], :seqs::bigint[]);

-- name: insert_items(booking_ids, zone_ids, quantities, prices)!
-- Their items.
INSERT INTO booking_items (booking_id, zone_id, quantity, unit_price_minor)
SELECT * FROM unnest(:booking_ids::uuid[], :zone_ids::uuid[], :quantities::int[], :prices::bigint[]);

-- name: move_bookings(ids, versions_before, statuses, versions, confirmed_ats, ended_ats, codes, epochs, seqs)!
-- Bookings of earlier batches, from the version that the ledger says they had.
UPDATE bookings b
SET status = m.status, version = m.version, confirmed_at = coalesce(m.confirmed_at, b.confirmed_at),
    ended_at = m.ended_at, confirmation_code = coalesce(m.code, b.confirmation_code),
    ledger_epoch = m.epoch, ledger_seq = m.seq, updated_at = now()
FROM unnest(:ids::uuid[], :versions_before::int[], :statuses::text[], :versions::int[],
    :confirmed_ats::timestamptz[], :ended_ats::timestamptz[], :codes::text[], :epochs::bigint[], :seqs::bigint[])
    AS m (id, version_before, status, version, confirmed_at, ended_at, code, epoch, seq)
WHERE b.id = m.id AND b.version = m.version_before;

-- name: move_counters(zone_ids, capacities, availables, reserveds, confirmeds, blockeds)!
-- What the batch does to each zone, zones in sorted order. The constraints are the last guard.
UPDATE seat_zones z
SET capacity = z.capacity + m.capacity, available_seats = z.available_seats + m.available,
    reserved = z.reserved + m.reserved, confirmed = z.confirmed + m.confirmed,
    blocked = z.blocked + m.blocked, updated_at = now()
FROM unnest(:zone_ids::uuid[], :capacities::int[], :availables::int[], :reserveds::int[], :confirmeds::int[],
    :blockeds::int[]) AS m (id, capacity, available, reserved, confirmed, blocked)
WHERE z.id = m.id;

-- name: insert_outbox(booking_ids, versions, event_types, payloads)!
-- The domain events of the batch.
INSERT INTO outbox (aggregate_type, aggregate_id, version, event_type, payload)
SELECT 'booking', * FROM unnest(:booking_ids::uuid[], :versions::bigint[], :event_types::text[], :payloads::jsonb[]);

-- name: undo_booking(booking_id, version, ended_at, epoch, seq)$
-- A booking that was refused after its reservation was taken: end it here as well, and count its items back.
WITH found AS (
    SELECT id, status FROM bookings WHERE id = :booking_id AND status IN ('reserved', 'confirmed') FOR UPDATE
), ended AS (
    UPDATE bookings b
    SET status = 'cancelled', version = :version, ended_at = :ended_at, ledger_epoch = :epoch, ledger_seq = :seq,
        updated_at = now()
    FROM found WHERE b.id = found.id
    RETURNING b.id, found.status AS was
), counted AS (
    UPDATE seat_zones z
    SET available_seats = z.available_seats + i.quantity,
        reserved = z.reserved - CASE WHEN ended.was = 'reserved' THEN i.quantity ELSE 0 END,
        confirmed = z.confirmed - CASE WHEN ended.was = 'confirmed' THEN i.quantity ELSE 0 END,
        updated_at = now()
    FROM ended JOIN booking_items i ON i.booking_id = ended.id
    WHERE z.id = i.zone_id
)
SELECT count(*) FROM ended;

-- name: decide_edits(versions, outcomes, ats, event_ref, cell)!
-- Edits whose ledger entry came by.
UPDATE edits e SET outcome = m.outcome, decided_at = m.at
FROM unnest(:versions::bigint[], :outcomes::text[], :ats::timestamptz[]) AS m (version, outcome, at)
WHERE e.event_ref = :event_ref AND e.cell = :cell AND e.version = m.version AND e.outcome IS NULL;

-- name: advance_applied_version(version, event_ref, cell)!
UPDATE cells SET applied_version = greatest(applied_version, :version)
WHERE event_ref = :event_ref AND cell = :cell;

-- name: insert_dead_letter(event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, is_returned)!
-- One entry that Postgres refused, or that belongs to a refused booking.
INSERT INTO dead_letters (event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, returned_at)
VALUES (:event_ref, :cell, :epoch, :seq, :booking_id, :entry::jsonb, :sqlstate, :reason,
    CASE WHEN :is_returned THEN now() END);

-- name: dead_letters_to_return()
-- Refused bookings whose seats have not been given back yet.
SELECT DISTINCT event_ref, cell, booking_id
FROM dead_letters
WHERE returned_at IS NULL AND booking_id IS NOT NULL
LIMIT 100;

-- name: mark_returned(booking_id)!
UPDATE dead_letters SET returned_at = now() WHERE booking_id = :booking_id AND returned_at IS NULL;

-- name: open_cells()
-- Every cell that may have something in its ledger.
SELECT event_ref, cell, epoch, seq, replid FROM cells WHERE epoch > 0 AND closed_at IS NULL;

-- name: cell_offset(event_ref, cell)^
SELECT epoch, seq, replid FROM cells WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL;
