-- name: cells_to_audit(event_id)
-- Every cell that was ever published, or those of one event.
SELECT c.event_ref, c.cell, c.event_id, e.title, c.epoch, c.seq, c.closed_at IS NOT NULL AS is_closed,
    c.fenced_at IS NOT NULL AS is_fenced, c.edit_version, c.applied_version
FROM cells c JOIN events e ON e.id = c.event_id
WHERE :event_id::uuid IS NULL OR c.event_id = :event_id
ORDER BY c.event_ref, c.cell;

-- name: event_exists(event_id)$
SELECT EXISTS (SELECT FROM events WHERE id = :event_id);

-- name: position(event_ref, cell)^
-- How far a cell's ledger is in Postgres.
SELECT epoch, seq, edit_version, applied_version FROM cells WHERE event_ref = :event_ref AND cell = :cell;

-- name: sale(event_id)^
-- What the hash of the sale must say.
SELECT status, sale_start_at, sale_end_at, max_per_user, hold_ttl_seconds, currency, waiting_room
FROM events WHERE id = :event_id;

-- name: zones(event_id)
SELECT id, name, show_id, price_minor, max_per_order, capacity, available_seats, reserved, confirmed, blocked
FROM seat_zones WHERE event_id = :event_id ORDER BY created_at, id;

-- name: zone_sums(first, last)
-- What the living bookings of a cell hold of each zone.
SELECT i.zone_id,
    coalesce(sum(i.quantity) FILTER (WHERE b.status = 'reserved'), 0)::bigint AS reserved,
    coalesce(sum(i.quantity) FILTER (WHERE b.status = 'confirmed'), 0)::bigint AS confirmed
FROM bookings b JOIN booking_items i ON i.booking_id = b.id
WHERE b.id BETWEEN :first AND :last AND b.status IN ('reserved', 'confirmed')
GROUP BY i.zone_id;

-- name: bookings_page(after, last, rows_max)
-- One page of a cell's bookings in the order of their ids; items as zone:quantity:price, sorted.
SELECT b.id, b.event_id, b.user_id, b.status, b.version, b.fingerprint, b.quantity, b.total_minor, b.currency,
    b.created_at, b.expires_at, b.confirmed_at, b.confirmation_code, b.ledger_epoch, b.ledger_seq, i.items,
    i.quantity AS items_quantity, i.total_minor AS items_total_minor
FROM bookings b LEFT JOIN LATERAL (
    SELECT string_agg(concat_ws(':', zone_id, quantity, unit_price_minor), ',' ORDER BY zone_id) AS items,
        sum(quantity)::bigint AS quantity, sum(quantity * unit_price_minor)::bigint AS total_minor
    FROM booking_items WHERE booking_id = b.id
) i ON true
WHERE b.id > :after AND b.id <= :last
ORDER BY b.id
LIMIT :rows_max;

-- name: bookings_by_id(booking_ids)
-- The same columns for some bookings.
SELECT b.id, b.event_id, b.user_id, b.status, b.version, b.fingerprint, b.quantity, b.total_minor, b.currency,
    b.created_at, b.expires_at, b.confirmed_at, b.confirmation_code, b.ledger_epoch, b.ledger_seq, i.items,
    i.quantity AS items_quantity, i.total_minor AS items_total_minor
FROM bookings b LEFT JOIN LATERAL (
    SELECT string_agg(concat_ws(':', zone_id, quantity, unit_price_minor), ',' ORDER BY zone_id) AS items,
        sum(quantity)::bigint AS quantity, sum(quantity * unit_price_minor)::bigint AS total_minor
    FROM booking_items WHERE booking_id = b.id
) i ON true
WHERE b.id = ANY (:booking_ids::uuid[]);

-- name: items_without_booking(first, last, rows_max)
-- Bookings of which only items are left: no foreign key forbids it, since asking for each item costs too much.
SELECT DISTINCT i.booking_id FROM booking_items i
WHERE i.booking_id BETWEEN :first AND :last
  AND NOT EXISTS (SELECT FROM bookings b WHERE b.id = i.booking_id)
LIMIT :rows_max;

-- name: known_ids(booking_ids)
SELECT id FROM bookings WHERE id = ANY (:booking_ids::uuid[]);

-- name: bookings_count(event_id)$
-- How many bookings an event has, whatever became of them.
SELECT count(*) FROM bookings WHERE event_id = :event_id;

-- name: versions(booking_ids)
SELECT id, version, ledger_epoch, ledger_seq, confirmation_code FROM bookings WHERE id = ANY (:booking_ids::uuid[]);

-- name: statuses(booking_ids)
SELECT id, user_id, status, quantity FROM bookings WHERE id = ANY (:booking_ids::uuid[]);

-- name: units(first, last, user_ids)
-- What some users have of a cell, how many of these bookings are holds, and when they last took some of it.
SELECT user_id, sum(quantity)::bigint AS units, count(*) FILTER (WHERE status = 'reserved') AS holds, max(created_at) AS newest_at
FROM bookings
WHERE user_id = ANY (:user_ids::uuid[]) AND id BETWEEN :first AND :last AND status IN ('reserved', 'confirmed')
GROUP BY user_id;

-- name: deadline_members(first, last)$
-- How long the index of deadlines must be: a member for each zone of each hold.
SELECT count(*) FROM bookings b JOIN booking_items i ON i.booking_id = b.id
WHERE b.id BETWEEN :first AND :last AND b.status = 'reserved';

-- name: limit_changed_at(event_ref, cell)$
-- When an edit last changed how much one person may hold.
SELECT max(decided_at) FROM edits
WHERE event_ref = :event_ref AND cell = :cell AND outcome = 'applied' AND intent -> 'sale' ? 'max_per_user';

-- name: dead_letters_between(event_ref, cell, epoch, first_seq, last_seq)
SELECT seq FROM dead_letters
WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq BETWEEN :first_seq AND :last_seq;

-- name: refused_bookings(event_ref, cell)
-- Bookings of which Postgres has refused something, and the state that their rows are in, where there is one.
SELECT DISTINCT d.booking_id, b.status
FROM dead_letters d LEFT JOIN bookings b ON b.id = d.booking_id
WHERE d.event_ref = :event_ref AND d.cell = :cell AND d.booking_id IS NOT NULL;

-- name: dead_bookings(booking_ids)
SELECT DISTINCT booking_id FROM dead_letters WHERE booking_id = ANY (:booking_ids::uuid[]);

-- name: dead_letter_counts(event_ref, cell)^
SELECT count(*) AS letters,
    count(*) FILTER (WHERE returned_at IS NULL AND booking_id IS NOT NULL) AS unreturned
FROM dead_letters WHERE event_ref = :event_ref AND cell = :cell;

-- name: edit_outcomes(event_ref, cell, versions)
SELECT version, outcome FROM edits
WHERE event_ref = :event_ref AND cell = :cell AND version = ANY (:versions::bigint[]);

-- name: counted_twice(event_ref, cell, first, last, rows_max)
-- Bookings that stand where a dead letter stands as well.
SELECT b.id, b.ledger_epoch, b.ledger_seq
FROM bookings b JOIN dead_letters d ON d.event_ref = :event_ref AND d.cell = :cell
    AND d.epoch = b.ledger_epoch AND d.seq = b.ledger_seq
WHERE b.id BETWEEN :first AND :last
LIMIT :rows_max;

-- name: shared_positions(first, last, rows_max)
-- Ledger entries that more than one booking says to come from.
SELECT ledger_epoch, ledger_seq, count(*) AS bookings
FROM bookings WHERE id BETWEEN :first AND :last
GROUP BY ledger_epoch, ledger_seq HAVING count(*) > 1
LIMIT :rows_max;

-- name: ahead_of_offset(event_ref, cell, first, last, rows_max)
-- Bookings from entries that the offset has not reached.
SELECT b.id, b.ledger_epoch, b.ledger_seq
FROM bookings b JOIN cells c ON c.event_ref = :event_ref AND c.cell = :cell
WHERE b.id BETWEEN :first AND :last AND (b.ledger_epoch, b.ledger_seq) > (c.epoch, c.seq)
LIMIT :rows_max;

-- name: payments_in_doubt(first, last, unfinished_s, rows_max)
-- Payments that took money for what is not sold, and those that nobody finished.
SELECT p.id, p.status, b.id AS booking_id, b.status AS booking_status,
    p.status = 'succeeded' AS is_paid_for_nothing
FROM payments p JOIN bookings b ON b.id = p.booking_id
WHERE b.id BETWEEN :first AND :last
  AND ((p.status = 'succeeded' AND b.status <> 'confirmed')
    OR (p.status IN ('pending', 'authorized', 'refund_pending') AND p.updated_at < now() - make_interval(secs => :unfinished_s)))
ORDER BY p.id
LIMIT :rows_max;

-- name: payment_counts(first, last)^
SELECT count(*) AS payments,
    count(*) FILTER (WHERE p.status IN ('pending', 'authorized', 'refund_pending')) AS unfinished
FROM payments p JOIN bookings b ON b.id = p.booking_id
WHERE b.id BETWEEN :first AND :last;

-- name: bookings_up_to(first, last, rows_max)$
-- How many bookings a cell has, counted up to a bound.
SELECT count(*) FROM (SELECT FROM bookings WHERE id BETWEEN :first AND :last LIMIT :rows_max) AS found;

-- name: items_without_booking_behind(after, last, rows_max)
-- Among so many items behind an id, those whose booking is not there.
SELECT DISTINCT s.booking_id
FROM (
    SELECT i.booking_id FROM booking_items i
    WHERE i.booking_id > :after AND i.booking_id <= :last
    ORDER BY i.booking_id
    LIMIT :rows_max
) s
WHERE NOT EXISTS (SELECT FROM bookings b WHERE b.id = s.booking_id);

-- name: dead_and_counted(event_ref, cell, rows_max)
-- Bookings that stand where a dead letter of theirs stands as well.
SELECT b.id, b.ledger_epoch, b.ledger_seq
FROM dead_letters d JOIN bookings b ON b.id = d.booking_id AND (b.ledger_epoch, b.ledger_seq) = (d.epoch, d.seq)
WHERE d.event_ref = :event_ref AND d.cell = :cell
LIMIT :rows_max;

-- name: payments_of(booking_ids, unfinished_s)
-- Payments of some bookings that took money for what is not sold, or that nobody finished.
SELECT p.id, p.status, b.id AS booking_id, b.status AS booking_status,
    p.status = 'succeeded' AS is_paid_for_nothing
FROM payments p JOIN bookings b ON b.id = p.booking_id
WHERE p.booking_id = ANY (:booking_ids::uuid[])
  AND ((p.status = 'succeeded' AND b.status <> 'confirmed')
    OR (p.status IN ('pending', 'authorized', 'refund_pending') AND p.updated_at < now() - make_interval(secs => :unfinished_s)))
ORDER BY p.id;

-- name: payments_overdue(first, last, unfinished_s, rows_max)
-- Unfinished payments of a cell that nobody has touched for long.
SELECT p.id, p.status, b.id AS booking_id, b.status AS booking_status, false AS is_paid_for_nothing
FROM payments p JOIN bookings b ON b.id = p.booking_id
WHERE p.status IN ('pending', 'authorized', 'refund_pending')
  AND p.updated_at < now() - make_interval(secs => :unfinished_s)
  AND p.booking_id BETWEEN :first AND :last
ORDER BY p.updated_at
LIMIT :rows_max;

-- name: refused(event_ref, cell, overdue_s)^
-- Entries that Postgres has refused, and how many of them have their seats still to be given back.
SELECT count(*) AS letters,
    count(*) FILTER (
        WHERE returned_at IS NULL AND booking_id IS NOT NULL
          AND created_at > now() - make_interval(secs => :overdue_s)
    ) AS returning
FROM dead_letters WHERE event_ref = :event_ref AND cell = :cell;

-- name: waiting_room(event_ref, cell)^
-- How far a queue is, and what has happened in it in all.
SELECT tail, serving, admitted, claimed, spent, units, lapsed, coalesce(entrants, -1) AS entrants,
    drawn_at IS NOT NULL AS is_drawn
FROM waiting_rooms WHERE event_ref = :event_ref AND cell = :cell;

-- name: places_count(event_ref, cell)$
-- How many people stand in a queue.
SELECT count(*) FROM queue_places WHERE event_ref = :event_ref AND cell = :cell AND ended_at IS NULL;

-- name: places_page(event_ref, cell, after, rows_max)
-- One page of a queue's numbers, whoever has left included.
SELECT number, user_id, ended_at IS NULL AS is_living FROM queue_places
WHERE event_ref = :event_ref AND cell = :cell AND number > :after
ORDER BY number
LIMIT :rows_max;

-- name: places_by_number(event_ref, cell, numbers)
SELECT number, user_id, ended_at IS NULL AS is_living FROM queue_places
WHERE event_ref = :event_ref AND cell = :cell AND number = ANY (:numbers::int[]);

-- name: passes_page(event_ref, cell, after, rows_max)
-- One page of the users who ever claimed a pass.
SELECT user_id FROM queue_passes
WHERE event_ref = :event_ref AND cell = :cell AND user_id > :after
ORDER BY user_id
LIMIT :rows_max;

-- name: passes_of(event_ref, cell, user_ids)
SELECT user_id, (extract(epoch FROM expires_at) * 1000)::bigint AS expires_at_ms, booking_id,
    ended_at IS NOT NULL AS is_ended
FROM queue_passes WHERE event_ref = :event_ref AND cell = :cell AND user_id = ANY (:user_ids::uuid[]);

-- name: passes_max_changed_at(event_ref, cell)$
-- When an edit last changed how many passes may be out.
SELECT max(decided_at) FROM edits
WHERE event_ref = :event_ref AND cell = :cell AND outcome = 'applied' AND intent -> 'sale' ? 'queue_passes_max';
