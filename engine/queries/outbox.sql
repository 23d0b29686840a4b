-- name: count_events(rows_max)$
-- How many rows there are, counted up to a bound.
SELECT count(*) FROM (SELECT FROM outbox LIMIT :rows_max) AS found;

-- name: delete_events(rows_max)!
-- Any rows that no other publisher has in its hands: ids are not in commit order.
DELETE FROM outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM outbox LIMIT :rows_max FOR UPDATE SKIP LOCKED));

-- name: limit_lock_wait()#
-- Whoever waits for a lock on the table makes those wait that come later: the relay.
SET LOCAL lock_timeout = '50ms';

-- name: lock_outbox()#
LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE;

-- name: truncate_outbox()#
TRUNCATE outbox;
