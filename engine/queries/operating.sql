-- name: close_everything()!
INSERT INTO fence DEFAULT VALUES ON CONFLICT DO NOTHING;

-- name: open_everything()$
-- Whether it had been closed.
WITH gone AS (DELETE FROM fence RETURNING is_closed) SELECT EXISTS (SELECT FROM gone);

-- name: find_cell(event_id, slug)^
-- An event and, where it was published, its cell.
SELECT e.id, e.title, c.event_ref, c.cell, c.epoch, c.fenced_at IS NOT NULL AS is_fenced,
    c.closed_at IS NOT NULL AS is_closed, EXISTS (SELECT FROM fence) AS is_everything_fenced
FROM events e LEFT JOIN cells c ON c.event_id = e.id
WHERE e.id = :event_id::uuid OR e.slug = :slug::text;

-- name: close_cell(event_ref, cell)!
UPDATE cells SET fenced_at = coalesce(fenced_at, now()) WHERE event_ref = :event_ref AND cell = :cell;

-- name: open_cell(event_ref, cell)!
UPDATE cells SET fenced_at = NULL WHERE event_ref = :event_ref AND cell = :cell;

-- name: count_cells()^
-- Cells that are to be on sale, and those that stay closed one by one.
SELECT count(*) FILTER (WHERE fenced_at IS NULL) AS open, count(*) FILTER (WHERE fenced_at IS NOT NULL) AS fenced
FROM cells WHERE closed_at IS NULL;

-- name: is_recovery_working(family)$
-- Whether some recovery holds its lease.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = (:family::bigint)::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
);
