-- name: queue_cells()
-- Every open cell of an event that has a waiting room.
SELECT c.event_ref, c.cell
FROM cells c JOIN events e ON e.id = c.event_id
WHERE c.epoch > 0 AND c.closed_at IS NULL AND jsonb_typeof(e.waiting_room) = 'object';
