-- migrate:up

-- Whether a gateway checked the signature of the public round when it was entered.
ALTER TABLE waiting_rooms ADD COLUMN is_signature_checked boolean NOT NULL DEFAULT false;

-- migrate:down

ALTER TABLE waiting_rooms DROP COLUMN is_signature_checked;
