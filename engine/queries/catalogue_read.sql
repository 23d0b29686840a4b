-- name: list_public_events(pattern, category_slug, date_from, date_to, rows_max, rows_skipped)
-- A page of the published events that fit, newest first, each with the number of all that fit.
SELECT e.*, c.name AS category, count(*) OVER () AS total
FROM events e LEFT JOIN categories c ON c.id = e.category_id
WHERE e.status = 'published'
  AND (:pattern::text IS NULL OR e.title ILIKE :pattern OR e.venue ILIKE :pattern OR e.description ILIKE :pattern)
  AND (:category_slug::text IS NULL OR c.slug = :category_slug)
  AND (
      (:date_from::timestamptz IS NULL AND :date_to::timestamptz IS NULL)
      OR EXISTS (
          SELECT FROM shows s
          WHERE s.event_id = e.id
            AND s.show_date >= coalesce(:date_from, '-infinity')
            AND s.show_date <= coalesce(:date_to, 'infinity')
      )
  )
ORDER BY e.created_at DESC, e.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: list_organizer_events(is_admin, tenant_id, user_id, rows_max, rows_skipped)
-- A page of what an organizer may edit, drafts too, newest first, each with the number of all.
SELECT e.*, c.name AS category, count(*) OVER () AS total
FROM events e LEFT JOIN categories c ON c.id = e.category_id
WHERE :is_admin::boolean
   OR e.tenant_id = :tenant_id::uuid
   OR (:tenant_id::uuid IS NULL AND e.tenant_id IS NULL AND e.organizer_id = :user_id::uuid)
ORDER BY e.created_at DESC, e.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: find_event(event_id, slug)^
-- An event by its id or by its slug.
SELECT e.*, c.name AS category
FROM events e LEFT JOIN categories c ON c.id = e.category_id
WHERE e.id = :event_id::uuid OR e.slug = :slug::text;

-- name: find_event_of_show(show_id)^
-- The event that a show belongs to.
SELECT e.*, c.name AS category
FROM events e LEFT JOIN categories c ON c.id = e.category_id
WHERE e.id = (SELECT s.event_id FROM shows s WHERE s.id = :show_id);

-- name: list_shows_of_events(event_ids)
-- All shows of some events, in the order in which they were made.
SELECT s.id, s.event_id, s.show_date, s.status
FROM shows s
WHERE s.event_id = ANY (:event_ids::uuid[])
ORDER BY s.created_at, s.id;

-- name: list_zones_of_events(event_ids)
-- All zones of some events, in the order in which they were made.
SELECT z.*
FROM seat_zones z
WHERE z.event_id = ANY (:event_ids::uuid[])
ORDER BY z.created_at, z.id;

-- name: list_shows(event_id, rows_max, rows_skipped)
-- A page of an event's shows, newest first, each with the number of all.
SELECT s.id, s.event_id, s.show_date, s.status, count(*) OVER () AS total
FROM shows s
WHERE s.event_id = :event_id
ORDER BY s.created_at DESC, s.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: list_zones_of_shows(show_ids)
-- All zones of some shows, in the order in which they were made.
SELECT z.*
FROM seat_zones z
WHERE z.show_id = ANY (:show_ids::uuid[])
ORDER BY z.created_at, z.id;

-- name: list_zones(show_id, rows_max, rows_skipped)
-- A page of a show's zones, newest first, each with the number of all.
SELECT z.*, count(*) OVER () AS total
FROM seat_zones z
WHERE z.show_id = :show_id
ORDER BY z.created_at DESC, z.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: list_categories(rows_max, rows_skipped)
-- A page of the categories, newest first, each with the number of all.
SELECT c.id, c.name, c.slug, count(*) OVER () AS total
FROM categories c
ORDER BY c.created_at DESC, c.id
LIMIT :rows_max OFFSET :rows_skipped;

-- name: is_cell_closed(event_id)$
-- Whether an event's cell was closed: its counters in Postgres are the last ones then.
SELECT EXISTS (SELECT FROM cells c WHERE c.event_id = :event_id AND c.closed_at IS NOT NULL);
