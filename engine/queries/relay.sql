-- name: advance_offset(to_seq, event_ref, cell, epoch, from_seq)!
-- The compare-and-set that makes every entry count exactly once; anything but one row means: not ours.
UPDATE cells SET seq = :to_seq, updated_at = now()
WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :from_seq;

-- name: move_bookings(ids, versions_before, statuses, versions, confirmed_ats_ms, ended_ats_ms, codes, seqs, epoch)!
-- Bookings of earlier batches, from the version that the ledger says they had.
UPDATE bookings b
SET status = m.status, version = m.version,
    confirmed_at = coalesce(to_timestamp(m.confirmed_at_ms / 1000.0::float8), b.confirmed_at),
    ended_at = to_timestamp(m.ended_at_ms / 1000.0::float8),
    confirmation_code = coalesce(m.code, b.confirmation_code),
    ledger_epoch = :epoch, ledger_seq = m.seq, updated_at = now()
FROM unnest(:ids::uuid[], :versions_before::int[], :statuses::text[], :versions::int[],
    :confirmed_ats_ms::bigint[], :ended_ats_ms::bigint[], :codes::text[], :seqs::bigint[])
    AS m (id, version_before, status, version, confirmed_at_ms, ended_at_ms, code, seq)
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

-- name: end_places(numbers, users, ended_ats_ms, event_ref, cell)!
-- Numbers of earlier batches that were given up.
UPDATE queue_places p SET ended_at = to_timestamp(m.ended_at_ms / 1000.0::float8)
FROM unnest(:numbers::int[], :users::uuid[], :ended_ats_ms::bigint[]) AS m (number, user_id, ended_at_ms)
WHERE p.event_ref = :event_ref AND p.cell = :cell AND p.number = m.number AND p.user_id = m.user_id
  AND p.ended_at IS NULL;

-- name: claim_passes(users, numbers, places, claimed_ats_ms, expires_ats_ms, bookings, ended_ats_ms, event_ref, cell)!
-- Each in the place of the one that its owner had before.
INSERT INTO queue_passes (event_ref, cell, user_id, number, place, claimed_at, expires_at, booking_id, ended_at)
SELECT :event_ref, :cell, m.user_id, m.number, m.place, to_timestamp(m.claimed_at_ms / 1000.0::float8),
    to_timestamp(m.expires_at_ms / 1000.0::float8), m.booking_id, to_timestamp(m.ended_at_ms / 1000.0::float8)
FROM unnest(:users::uuid[], :numbers::int[], :places::int[], :claimed_ats_ms::bigint[], :expires_ats_ms::bigint[],
    :bookings::uuid[], :ended_ats_ms::bigint[])
    AS m (user_id, number, place, claimed_at_ms, expires_at_ms, booking_id, ended_at_ms)
ON CONFLICT (event_ref, cell, user_id) DO UPDATE SET number = excluded.number, place = excluded.place,
    claimed_at = excluded.claimed_at, expires_at = excluded.expires_at, booking_id = excluded.booking_id,
    ended_at = excluded.ended_at;

-- name: move_passes(users, bookings, ended_ats_ms, event_ref, cell)!
-- Passes of earlier batches that were spent, or ended.
UPDATE queue_passes p
SET booking_id = coalesce(m.booking_id, p.booking_id),
    ended_at = coalesce(to_timestamp(m.ended_at_ms / 1000.0::float8), p.ended_at)
FROM unnest(:users::uuid[], :bookings::uuid[], :ended_ats_ms::bigint[]) AS m (user_id, booking_id, ended_at_ms)
WHERE p.event_ref = :event_ref AND p.cell = :cell AND p.user_id = m.user_id;

-- name: insert_waves(to_places, from_places, people, served_ats_ms, event_ref, cell)!
INSERT INTO queue_waves (event_ref, cell, to_place, from_place, people, served_at)
SELECT :event_ref, :cell, m.to_place, m.from_place, m.people, to_timestamp(m.served_at_ms / 1000.0::float8)
FROM unnest(:to_places::int[], :from_places::int[], :people::int[], :served_ats_ms::bigint[])
    AS m (to_place, from_place, people, served_at_ms);

-- name: move_waiting_room(tail, serving, admitted, claimed, spent, units, lapsed, entrants, frozen_at_ms, frozen_seq, epoch, drawn_at_ms, event_ref, cell)!
-- How far the queue is, and what has happened in it in all.
UPDATE waiting_rooms
SET tail = greatest(tail, :tail), serving = greatest(serving, :serving), admitted = admitted + :admitted,
    claimed = claimed + :claimed, spent = spent + :spent, units = units + :units, lapsed = lapsed + :lapsed,
    entrants = coalesce(:entrants::int, entrants),
    frozen_at = coalesce(to_timestamp(:frozen_at_ms::bigint / 1000.0::float8), frozen_at),
    frozen_epoch = CASE WHEN :frozen_seq::bigint IS NULL THEN frozen_epoch ELSE :epoch::bigint END,
    frozen_seq = coalesce(:frozen_seq::bigint, frozen_seq),
    drawn_at = coalesce(to_timestamp(:drawn_at_ms::bigint / 1000.0::float8), drawn_at)
WHERE event_ref = :event_ref AND cell = :cell;

-- name: insert_dead_letter(event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, is_returned)!
-- One entry that Postgres refused, or that belongs to a refused booking.
INSERT INTO dead_letters (event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, returned_at)
VALUES (:event_ref, :cell, :epoch, :seq, :booking_id, :entry::jsonb, :sqlstate, :reason,
    CASE WHEN :is_returned THEN now() END);

-- name: dead_letters_to_return(event_refs, cells, bookings_max)
-- Refused bookings of these cells whose seats have not been given back yet: so many of each, so that none waits
-- for another. None of a cell that an operator has closed.
SELECT event_ref, cell, booking_id
FROM (
    SELECT d.event_ref, d.cell, d.booking_id,
        row_number() OVER (PARTITION BY d.event_ref, d.cell ORDER BY d.booking_id) AS place
    FROM (
        SELECT DISTINCT event_ref, cell, booking_id
        FROM dead_letters
        WHERE returned_at IS NULL AND booking_id IS NOT NULL
    ) AS d
    JOIN unnest(:event_refs::bigint[], :cells::int[]) AS own (event_ref, cell) USING (event_ref, cell)
    JOIN cells c USING (event_ref, cell)
    WHERE c.fenced_at IS NULL
) AS waiting
WHERE place <= :bookings_max;

-- name: mark_returned(booking_id)!
UPDATE dead_letters SET returned_at = now() WHERE booking_id = :booking_id AND returned_at IS NULL;

-- name: open_cells()
-- Every cell that may have something in its ledger.
SELECT event_ref, cell, epoch, seq, replid FROM cells WHERE epoch > 0 AND closed_at IS NULL;

-- name: cell_offset(event_ref, cell)^
SELECT epoch, seq, replid FROM cells WHERE event_ref = :event_ref AND cell = :cell AND closed_at IS NULL;
