-- name: find_booking(booking_id)^
-- One booking with its items, as JSON rows [zone, quantity, price_minor, show].
SELECT b.*, (
    SELECT json_agg(json_build_array(i.zone_id, i.quantity, i.unit_price_minor, z.show_id) ORDER BY i.zone_id)::text
    FROM booking_items i JOIN seat_zones z ON z.id = i.zone_id
    WHERE i.booking_id = b.id
) AS items
FROM bookings b
WHERE b.id = :booking_id;

-- name: list_bookings(user_id, status, event_id, rows_max, rows_skipped)
-- A page of the bookings of one buyer, newest first, each with the number of all that match.
SELECT b.*, count(*) OVER () AS total, (
    SELECT json_agg(json_build_array(i.zone_id, i.quantity, i.unit_price_minor, z.show_id) ORDER BY i.zone_id)::text
    FROM booking_items i JOIN seat_zones z ON z.id = i.zone_id
    WHERE i.booking_id = b.id
) AS items
FROM bookings b
WHERE b.user_id = :user_id
  AND (:status::text IS NULL OR b.status = :status)
  AND (:event_id::uuid IS NULL OR b.event_id = :event_id)
ORDER BY b.created_at DESC, b.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: count_bookings(user_id, status, event_id)$
-- How many bookings of one buyer match: for a page beyond the last.
SELECT count(*)
FROM bookings b
WHERE b.user_id = :user_id
  AND (:status::text IS NULL OR b.status = :status)
  AND (:event_id::uuid IS NULL OR b.event_id = :event_id);

-- name: durable_versions(booking_ids, event_refs, cells)
-- What Postgres knows of some awaited transitions, in one snapshot: the last transition of the booking where
-- there is one, and how far the cell is.
SELECT w.number, b.version, b.ledger_epoch, b.ledger_seq, c.epoch, c.seq
FROM unnest(:booking_ids::uuid[], :event_refs::bigint[], :cells::int[])
    WITH ORDINALITY AS w (booking_id, event_ref, cell, number)
LEFT JOIN bookings b ON b.id = w.booking_id
LEFT JOIN cells c ON c.event_ref = w.event_ref AND c.cell = w.cell;
