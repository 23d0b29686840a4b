-- name: lotteries_to_draw()
-- Every lottery whose entrants are frozen, and which the ledger does not say to be drawn.
SELECT w.event_ref, w.cell
FROM waiting_rooms w JOIN cells c USING (event_ref, cell)
WHERE w.mode = 'lottery' AND w.frozen_at IS NOT NULL AND w.drawn_at IS NULL AND c.closed_at IS NULL
ORDER BY w.frozen_at, w.event_ref, w.cell;

-- name: find_lottery(event_ref, cell)^
-- All that a draw is made of.
SELECT c.event_id, w.entrants, w.frozen_at, w.drawn_at, w.public_round, w.randomness, w.signature,
    w.is_signature_checked, (e.waiting_room ->> 'opens_at')::timestamptz AS opens_at, w.seed, w.commitment, w.root, w.key
FROM waiting_rooms w JOIN cells c USING (event_ref, cell) JOIN events e ON e.id = c.event_id
WHERE w.event_ref = :event_ref AND w.cell = :cell AND w.mode = 'lottery';

-- name: find_owner(event_id)^
-- Whose event it is.
SELECT e.tenant_id, e.organizer_id FROM events e WHERE e.id = :event_id;

-- name: entrants_between(event_ref, cell, first, last)
-- Who takes part, of the numbers from first to last: who had joined at the freeze, and had not left by then. That
-- is said by times alone, which nothing changes any more once the freeze is in Postgres.
SELECT p.number, p.user_id
FROM queue_places p JOIN waiting_rooms w USING (event_ref, cell)
WHERE p.event_ref = :event_ref AND p.cell = :cell AND p.number BETWEEN :first AND :last
  AND p.number <= w.entrants AND p.joined_at <= w.frozen_at
  AND (p.ended_at IS NULL OR p.ended_at >= w.frozen_at)
ORDER BY p.number;

-- name: record_root(root, event_ref, cell)$
-- The root of the entrants' tree, once.
UPDATE waiting_rooms SET root = :root
WHERE event_ref = :event_ref AND cell = :cell AND root IS NULL AND frozen_at IS NOT NULL
RETURNING true;

-- name: insert_chunks(event_ref, cell, roots)!
-- The roots of the tree's chunks, in their order.
INSERT INTO lottery_chunks (event_ref, cell, chunk, root)
SELECT :event_ref::bigint, :cell::int, r.number - 1, r.root
FROM unnest(:roots::bytea[]) WITH ORDINALITY AS r (root, number)
ON CONFLICT DO NOTHING;

-- name: chunk_roots(event_ref, cell)
SELECT k.root FROM lottery_chunks k WHERE k.event_ref = :event_ref AND k.cell = :cell ORDER BY k.chunk;

-- name: record_randomness(randomness, signature, is_signature_checked, event_ref, cell)$
-- What the named round said, once, and not before everybody knows who takes part.
UPDATE waiting_rooms SET randomness = :randomness, signature = :signature, is_signature_checked = :is_signature_checked
WHERE event_ref = :event_ref AND cell = :cell AND randomness IS NULL AND key IS NULL
  AND public_round IS NOT NULL AND root IS NOT NULL
RETURNING true;

-- name: record_key(key, root, randomness, event_ref, cell)$
-- What decides all places, once, and of nothing but what is published.
UPDATE waiting_rooms SET key = :key
WHERE event_ref = :event_ref AND cell = :cell AND key IS NULL AND root = :root
  AND randomness IS NOT DISTINCT FROM :randomness AND (public_round IS NULL) = (randomness IS NULL)
RETURNING true;
