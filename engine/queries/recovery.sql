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

-- name: is_committed_queue(event_ref, cell, epoch, seq, verb, number, user_id, at)$
-- The same for an entry of the waiting room: of a join its first number, of a wave its last place.
SELECT CASE :verb::text
    WHEN 'join' THEN EXISTS (
        SELECT FROM queue_places
        WHERE event_ref = :event_ref AND cell = :cell AND number = :number AND user_id = :user_id)
    WHEN 'leave' THEN EXISTS (
        SELECT FROM queue_places
        WHERE event_ref = :event_ref AND cell = :cell AND number = :number AND user_id = :user_id AND ended_at = :at)
    WHEN 'claim' THEN EXISTS (
        SELECT FROM queue_passes
        WHERE event_ref = :event_ref AND cell = :cell AND user_id = :user_id AND claimed_at = :at)
    ELSE EXISTS (
        SELECT FROM queue_waves
        WHERE event_ref = :event_ref AND cell = :cell AND to_place = :number AND served_at = :at)
END OR EXISTS (
    SELECT FROM dead_letters WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :seq
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
    encode(e.booking_secret, 'hex') AS secret, c.applied_version, e.waiting_room
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.event_ref = :event_ref AND c.cell = :cell;

-- name: find_zones(event_id)
-- What the hashes of the zones are made of.
SELECT id, show_id, kind, price_minor, max_per_order, capacity, available_seats, reserved, confirmed, blocked
FROM seat_zones WHERE event_id = :event_id ORDER BY created_at, id;

-- name: records_up_to(first, last, looked_max)^
-- How many of a cell's first bookings must have a record in Redis; and whether it may have others.
SELECT count(*) FILTER (WHERE l.is_kept) AS records, count(*) = :looked_max AS has_more
FROM (
    SELECT status IN ('reserved', 'confirmed') OR fingerprint IS NOT NULL AS is_kept FROM bookings
    WHERE id BETWEEN :first AND :last
    LIMIT :looked_max
) AS l;

-- name: units_to_rebuild(after, last, rows_max, looked_max)^
-- What buyers have in one slice of the sold bookings: '<user> <units> ...'; how many these are, and where it ends. So
-- many bookings are looked at, at most: few of them may be sold.
WITH looked AS MATERIALIZED (
    SELECT b.id, b.status, b.user_id, b.quantity FROM bookings b
    WHERE b.id > :after AND b.id <= :last
    ORDER BY b.id
    LIMIT :looked_max
), slice AS MATERIALIZED (
    SELECT * FROM looked WHERE status = 'confirmed' LIMIT :rows_max
), whole AS (
    SELECT count(*) AS bookings, max(id::text) AS last_id FROM slice
)
SELECT w.bookings,
    CASE WHEN w.bookings = :rows_max THEN w.last_id ELSE (SELECT max(id::text) FROM looked) END AS last_id,
    CASE WHEN w.bookings = :rows_max THEN false ELSE (SELECT count(*) FROM looked) < :looked_max END AS is_last,
    (SELECT string_agg(u.user_id || ' ' || u.units, ' ')
     FROM (SELECT user_id, sum(quantity) AS units FROM slice GROUP BY user_id) u) AS text
FROM whole w;

-- name: records_to_rebuild(after, last, rows_max, looked_max, has_holds, has_others)^
-- One slice of the bookings that Redis must know, the living, and the keyed, whose ids must not live twice: a line
-- for each, its id and the text of its record (see lua/lib/booking.lua). The holds, or the others, or both; of so many
-- bookings as are looked at, at most.
WITH looked AS MATERIALIZED (
    SELECT b.id, b.status, b.fingerprint IS NOT NULL AS is_keyed FROM bookings b
    WHERE b.id > :after AND b.id <= :last
    ORDER BY b.id
    LIMIT :looked_max
), slice AS MATERIALIZED (
    SELECT id FROM looked
    WHERE (:has_holds AND status = 'reserved')
       OR (:has_others AND (status = 'confirmed' OR (status <> 'reserved' AND is_keyed)))
    LIMIT :rows_max
), whole AS (
    SELECT count(*) AS bookings, max(id::text) AS last_id FROM slice
)
SELECT w.bookings,
    CASE WHEN w.bookings = :rows_max THEN w.last_id ELSE (SELECT max(id::text) FROM looked) END AS last_id,
    CASE WHEN w.bookings = :rows_max THEN false ELSE (SELECT count(*) FROM looked) < :looked_max END AS is_last,
    (SELECT string_agg(concat_ws(' ', r.id, r.status, r.version, r.ledger_epoch || '-' || r.ledger_seq, r.user_id,
        coalesce(r.fingerprint, '-'), r.quantity, r.total_minor, r.currency,
        (extract(epoch FROM r.created_at) * 1000)::bigint, (extract(epoch FROM r.expires_at) * 1000)::bigint,
        coalesce(((extract(epoch FROM r.confirmed_at) * 1000)::bigint)::text, '-'),
        coalesce(((extract(epoch FROM r.ended_at) * 1000)::bigint)::text, '-'),
        coalesce(r.confirmation_code, '-'), '[' || coalesce(r.items, '') || ']'), E'\n' ORDER BY r.id)
     FROM (
        SELECT b.*, (
            SELECT string_agg(
                '["' || i.zone_id || '",' || i.quantity || ',' || i.unit_price_minor || ',"' || z.show_id || '"]',
                ',' ORDER BY i.zone_id
            )
            FROM booking_items i JOIN seat_zones z ON z.id = i.zone_id
            WHERE i.booking_id = b.id
        ) AS items
        FROM slice s JOIN bookings b ON b.id = s.id
     ) r) AS text
FROM whole w;

-- name: zone_totals(event_id)^
-- The seats of an event that are held, and that are sold.
SELECT coalesce(sum(reserved), 0)::bigint AS reserved, coalesce(sum(confirmed), 0)::bigint AS confirmed
FROM seat_zones WHERE event_id = :event_id;

-- name: waiting_room_to_rebuild(event_ref, cell)^
-- The totals of a waiting room.
SELECT mode, tail, serving, gaps, admitted, claimed, spent, units, lapsed, entrants,
    CASE WHEN drawn_at IS NOT NULL THEN key END AS key
FROM waiting_rooms WHERE event_ref = :event_ref AND cell = :cell;

-- name: places_to_rebuild(event_ref, cell, after, rows_max)^
-- The living among the next numbers, and the sixteen bytes of their users one after the other; where the slice ends.
SELECT array_agg(s.number ORDER BY s.number) FILTER (WHERE s.ended_at IS NULL) AS numbers,
    string_agg(uuid_send(s.user_id), ''::bytea ORDER BY s.number) FILTER (WHERE s.ended_at IS NULL) AS users,
    count(*) FILTER (WHERE s.ended_at IS NULL) AS people, max(s.number) AS last_number, count(*) < :rows_max AS is_last
FROM (
    SELECT number, user_id, ended_at FROM queue_places
    WHERE event_ref = :event_ref AND cell = :cell AND number > :after
    ORDER BY number
    LIMIT :rows_max
) AS s;

-- name: passes_to_rebuild(event_ref, cell, after, rows_max)^
-- The next passes in the order of their users that have not ended: those that are out, and those that were spent.
SELECT coalesce(json_agg(json_build_array(s.user_id, (extract(epoch FROM s.expires_at) * 1000)::bigint))
        FILTER (WHERE s.ended_at IS NULL AND s.booking_id IS NULL), '[]')::text AS passes,
    coalesce(json_agg(json_build_array(s.user_id, s.booking_id))
        FILTER (WHERE s.ended_at IS NULL AND s.booking_id IS NOT NULL), '[]')::text AS spent,
    count(*) AS people, max(s.user_id::text)::uuid AS last_user, count(*) < :rows_max AS is_last
FROM (
    SELECT user_id, expires_at, booking_id, ended_at FROM queue_passes
    WHERE event_ref = :event_ref AND cell = :cell AND user_id > :after
    ORDER BY user_id
    LIMIT :rows_max
) AS s;

-- name: waves_to_rebuild(event_ref, cell, since_ms)
-- The waves of the last while, in their order.
SELECT from_place, to_place, people, (extract(epoch FROM served_at) * 1000)::bigint AS served_at_ms
FROM queue_waves
WHERE event_ref = :event_ref AND cell = :cell
  AND served_at >= clock_timestamp() - make_interval(secs => :since_ms::bigint / 1000.0::float8)
ORDER BY to_place;

-- name: tried_places(event_ref, cell, first_place)
-- The places from here on whose people have claimed a pass, whatever became of it.
SELECT place FROM queue_passes WHERE event_ref = :event_ref AND cell = :cell AND place >= :first_place;

-- name: left_numbers(event_ref, cell, since_ms)
-- Numbers that were given up since a time.
SELECT number, (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at_ms FROM queue_places
WHERE event_ref = :event_ref AND cell = :cell
  AND ended_at > to_timestamp(:since_ms::bigint / 1000.0::float8);

-- name: ended_between(event_ref, cell, first_number, last_number)
-- Numbers of a gap that came back, and whose places have ended since.
SELECT number FROM queue_places
WHERE event_ref = :event_ref AND cell = :cell AND number BETWEEN :first_number AND :last_number
  AND ended_at IS NOT NULL;

-- name: places_up_to(event_ref, cell, rows_max)$
-- How many numbers a queue has given, counted up to a bound.
SELECT count(*) FROM (
    SELECT FROM queue_places WHERE event_ref = :event_ref AND cell = :cell LIMIT :rows_max
) AS found;

-- name: leave_gap(event_ref, cell, numbers)^
-- The end of a ledger may be lost, and with it numbers that were given out: the next ones begin behind them.
UPDATE waiting_rooms
SET gaps = CASE
        WHEN gaps ~ ('-' || tail || '$') THEN regexp_replace(gaps, '[0-9]+$', (tail + :numbers::int)::text)
        ELSE ltrim(gaps || ' ' || (tail + 1) || '-' || (tail + :numbers::int))
    END,
    tail = tail + :numbers::int
WHERE event_ref = :event_ref AND cell = :cell
RETURNING tail, gaps;

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

-- name: repair_places(numbers, users, event_ref, cell)!
-- Who stands where. When somebody joined is not known any more.
INSERT INTO queue_places (event_ref, cell, number, user_id, joined_at)
SELECT :event_ref, :cell, m.number, m.user_id, now()
FROM unnest(:numbers::int[], :users::uuid[]) AS m (number, user_id)
ON CONFLICT (event_ref, cell, number) DO UPDATE SET user_id = excluded.user_id, ended_at = NULL
WHERE queue_places.user_id <> excluded.user_id OR queue_places.ended_at IS NOT NULL;

-- name: repair_ended_places(numbers, event_ref, cell)!
-- Numbers that nobody has any more, of nobody where there is no row.
-- Those ended long before any freeze: one that is repaired in this transaction too must not count them as entrants.
INSERT INTO queue_places (event_ref, cell, number, user_id, joined_at, ended_at)
SELECT :event_ref, :cell, number, '00000000-0000-0000-0000-000000000000', 'epoch', 'epoch'
FROM unnest(:numbers::int[]) AS number
ON CONFLICT (event_ref, cell, number) DO UPDATE SET ended_at = coalesce(queue_places.ended_at, now());

-- name: repair_missing_places(tail, firsts, lasts, event_ref, cell)!
-- Numbers outside of the gaps that somebody had who is not known any more: nobody stands there, nor did at a freeze.
INSERT INTO queue_places (event_ref, cell, number, user_id, joined_at, ended_at)
SELECT :event_ref, :cell, number, '00000000-0000-0000-0000-000000000000', 'epoch', 'epoch'
FROM generate_series(1, :tail::int) AS number
WHERE NOT EXISTS (
    SELECT FROM unnest(:firsts::int[], :lasts::int[]) AS gap (first, last) WHERE number BETWEEN gap.first AND gap.last
)
ON CONFLICT DO NOTHING;

-- name: repair_passes(users, numbers, places, expires_ats_ms, bookings, ttl_ms, event_ref, cell)!
-- The passes that have not ended.
INSERT INTO queue_passes (event_ref, cell, user_id, number, place, claimed_at, expires_at, booking_id)
SELECT :event_ref, :cell, m.user_id, m.number, m.place,
    coalesce(to_timestamp((m.expires_at_ms - :ttl_ms::bigint) / 1000.0::float8), now()),
    coalesce(to_timestamp(m.expires_at_ms / 1000.0::float8), now()), m.booking_id
FROM unnest(:users::uuid[], :numbers::int[], :places::int[], :expires_ats_ms::bigint[], :bookings::uuid[])
    AS m (user_id, number, place, expires_at_ms, booking_id)
ON CONFLICT (event_ref, cell, user_id) DO UPDATE SET number = excluded.number, place = excluded.place,
    claimed_at = CASE WHEN excluded.booking_id IS NULL THEN excluded.claimed_at ELSE queue_passes.claimed_at END,
    expires_at = CASE WHEN excluded.booking_id IS NULL THEN excluded.expires_at ELSE queue_passes.expires_at END,
    booking_id = excluded.booking_id, ended_at = NULL;

-- name: repair_ended_passes(known, event_ref, cell)!
UPDATE queue_passes SET ended_at = now()
WHERE event_ref = :event_ref AND cell = :cell AND ended_at IS NULL AND user_id <> ALL (:known::uuid[]);

-- name: repair_waves(from_places, to_places, people, served_ats_ms, event_ref, cell)!
INSERT INTO queue_waves (event_ref, cell, to_place, from_place, people, served_at)
SELECT :event_ref, :cell, m.to_place, m.from_place, m.people, to_timestamp(m.served_at_ms / 1000.0::float8)
FROM unnest(:from_places::int[], :to_places::int[], :people::int[], :served_ats_ms::bigint[])
    AS m (from_place, to_place, people, served_at_ms)
ON CONFLICT DO NOTHING;

-- name: repair_waiting_room(tail, serving, gaps, admitted, claimed, spent, units, lapsed, entrants, key, epoch, seq, event_ref, cell)!
UPDATE waiting_rooms
SET tail = :tail, serving = :serving, gaps = :gaps, admitted = :admitted, claimed = :claimed, spent = :spent,
    units = :units, lapsed = :lapsed, entrants = :entrants::int,
    frozen_at = CASE WHEN :entrants::int IS NULL THEN NULL ELSE coalesce(frozen_at, now()) END,
    frozen_epoch = CASE WHEN :entrants::int IS NULL THEN NULL ELSE coalesce(frozen_epoch, :epoch) END,
    frozen_seq = CASE WHEN :entrants::int IS NULL THEN NULL ELSE coalesce(frozen_seq, :seq) END,
    key = coalesce(:key::bytea, key),
    drawn_at = CASE WHEN :key::bytea IS NULL THEN NULL ELSE coalesce(drawn_at, now()) END
WHERE event_ref = :event_ref AND cell = :cell;

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

-- name: has_holds(event_id)$
-- Whether an event has a hold that is not ended.
SELECT EXISTS (SELECT FROM seat_zones WHERE event_id = :event_id AND reserved > 0);

-- name: close_cell(event_ref, cell, epoch, seq)!
UPDATE cells SET closed_at = now() WHERE event_ref = :event_ref AND cell = :cell AND epoch = :epoch AND seq = :seq;
