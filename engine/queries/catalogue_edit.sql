-- name: lock_event(event_id)^
-- An event for an edit: whoever edits it next waits. A weaker lock than FOR UPDATE, which the foreign
-- key of the cell would run into while the relay moves its offset.
SELECT e.*, c.name AS category
FROM events e LEFT JOIN categories c ON c.id = e.category_id
WHERE e.id = :event_id
FOR NO KEY UPDATE OF e;

-- name: event_id_of_show(show_id)$
-- The event that a show belongs to.
SELECT s.event_id FROM shows s WHERE s.id = :show_id;

-- name: event_id_of_zone(zone_id)$
-- The event that a zone belongs to.
SELECT z.event_id FROM seat_zones z WHERE z.id = :zone_id;

-- name: find_zone(zone_id)^
-- One zone.
SELECT z.* FROM seat_zones z WHERE z.id = :zone_id;

-- name: insert_category(name, slug)!
-- A category, where there is none of that name yet.
INSERT INTO categories (name, slug) VALUES (:name, :slug) ON CONFLICT DO NOTHING;

-- name: find_category(name, slug)$
-- The category with this name or, where another spelling came first, this slug.
SELECT c.id FROM categories c WHERE c.name = :name OR c.slug = :slug ORDER BY c.name = :name DESC LIMIT 1;

-- name: insert_event(id, tenant_id, organizer_id, category_id, title, slug, description, venue, image_url, currency, sale_start_at, sale_end_at, max_per_user, hold_ttl_seconds, refund_policy, waiting_room, booking_secret)$
-- A draft; no row where its id or its slug is taken.
INSERT INTO events (
    id, tenant_id, organizer_id, category_id, title, slug, description, venue, image_url, currency,
    sale_start_at, sale_end_at, max_per_user, hold_ttl_seconds, refund_policy, waiting_room, booking_secret
)
VALUES (
    :id, :tenant_id, :organizer_id, :category_id, :title, :slug, :description, :venue, :image_url, :currency,
    :sale_start_at, :sale_end_at, :max_per_user, :hold_ttl_seconds, :refund_policy, :waiting_room, :booking_secret
)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: is_slug_taken(slug, event_id)$
-- Whether another event has this slug.
SELECT EXISTS (SELECT FROM events e WHERE e.slug = :slug AND e.id <> :event_id);

-- name: update_event(title, slug, description, venue, category_id, image_url, currency, sale_start_at, sale_end_at, max_per_user, hold_ttl_seconds, refund_policy, waiting_room, id)!
-- All that an organizer may change of an event, as it is to be.
UPDATE events
SET title = :title, slug = :slug, description = :description, venue = :venue, category_id = :category_id,
    image_url = :image_url, currency = :currency, sale_start_at = :sale_start_at, sale_end_at = :sale_end_at,
    max_per_user = :max_per_user, hold_ttl_seconds = :hold_ttl_seconds, refund_policy = :refund_policy,
    waiting_room = :waiting_room, updated_at = now()
WHERE id = :id;

-- name: update_status(status, event_id)!
-- The status, as an action leaves it.
UPDATE events SET status = :status, updated_at = now() WHERE id = :event_id;

-- name: update_waiting_room(waiting_room, event_id)!
-- The settings of the waiting room, with its pause.
UPDATE events SET waiting_room = :waiting_room, updated_at = now() WHERE id = :event_id;

-- name: delete_event(event_id)!
-- A draft, with its shows and zones.
DELETE FROM events WHERE id = :event_id;

-- name: count_children(event_id)^
-- How many shows and zones an event has.
SELECT
    (SELECT count(*) FROM shows s WHERE s.event_id = :event_id) AS shows,
    (SELECT count(*) FROM seat_zones z WHERE z.event_id = :event_id) AS zones;

-- name: insert_shows(event_id, ids, show_dates)!
-- Shows of one event, a microsecond apart: their order is the one in which they were sent.
INSERT INTO shows (id, event_id, show_date, created_at)
SELECT n.id, :event_id, n.show_date, clock_timestamp() + n.place * interval '1 microsecond'
FROM unnest(:ids::uuid[], :show_dates::timestamptz[]) WITH ORDINALITY AS n (id, show_date, place);

-- name: insert_zones(event_id, ids, show_ids, names, prices_minor, maxima_per_order, capacities)!
-- Zones of one event, in the order in which they were sent. What is on sale gets its seats by an intent.
INSERT INTO seat_zones (
    id, show_id, event_id, name, price_minor, max_per_order, capacity, available_seats, created_at
)
SELECT n.id, n.show_id, :event_id, n.name, n.price_minor, n.max_per_order, n.capacity, n.capacity,
    clock_timestamp() + n.place * interval '1 microsecond'
FROM unnest(
    :ids::uuid[], :show_ids::uuid[], :names::text[], :prices_minor::bigint[], :maxima_per_order::integer[],
    :capacities::integer[]
) WITH ORDINALITY AS n (id, show_id, name, price_minor, max_per_order, capacity, place);

-- name: update_show(show_date, show_id)!
-- The date of a show.
UPDATE shows SET show_date = :show_date, updated_at = now() WHERE id = :show_id;

-- name: update_zone(name, price_minor, max_per_order, zone_id)!
-- What an organizer may change of a zone beside its counters.
UPDATE seat_zones
SET name = :name, price_minor = :price_minor, max_per_order = :max_per_order, updated_at = now()
WHERE id = :zone_id;

-- name: update_draft_counters(capacity, blocked, zone_id)!
-- The counters of a zone that was never on sale.
UPDATE seat_zones
SET capacity = :capacity::integer, blocked = :blocked::integer, available_seats = :capacity::integer - :blocked::integer,
    updated_at = now()
WHERE id = :zone_id;
