-- name: delete_events(rows_max)!
-- Any rows that no other publisher has in its hands: ids are not in commit order.
DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :rows_max FOR UPDATE SKIP LOCKED);
