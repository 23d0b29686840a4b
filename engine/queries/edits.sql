-- name: next_edit_version(event_ref, cell)$
-- Take the next version of a cell; the row lock puts concurrent edits in order.
UPDATE cells SET edit_version = edit_version + 1 WHERE event_ref = :event_ref AND cell = :cell
RETURNING edit_version;

-- name: insert_edit(event_ref, cell, version, intent, requested_by)!
INSERT INTO edits (event_ref, cell, version, intent, requested_by)
VALUES (:event_ref, :cell, :version, :intent::jsonb, :requested_by);

-- name: undecided_edits(event_ref, cell, version_max)
-- What Redis may not have yet, in order.
SELECT version, intent::text AS intent FROM edits
WHERE event_ref = :event_ref AND cell = :cell AND outcome IS NULL AND version <= :version_max
ORDER BY version;

-- name: edit_outcome(event_ref, cell, version)$
SELECT outcome FROM edits WHERE event_ref = :event_ref AND cell = :cell AND version = :version;

-- name: cells_with_undecided_edits(older_than_s)
-- Open cells for which an intent has waited longer than its request would have taken.
SELECT DISTINCT e.event_ref, e.cell
FROM edits e JOIN cells c ON c.event_ref = e.event_ref AND c.cell = e.cell
WHERE e.outcome IS NULL AND e.created_at < now() - make_interval(secs => :older_than_s) AND c.closed_at IS NULL
  AND c.fenced_at IS NULL;
