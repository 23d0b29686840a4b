-- name: insert_user(email, password_hash, full_name, role)^
-- A new account; no row where the e-mail is taken.
INSERT INTO users (email, password_hash, full_name, role)
VALUES (:email, :password_hash, :full_name, :role)
ON CONFLICT (email) DO NOTHING
RETURNING id, tenant_id, email, full_name, role, email_verified, created_at;

-- name: find_user_by_email(email)^
-- An account with its password's hash, for the login.
SELECT id, tenant_id, email, full_name, role, email_verified, created_at, password_hash
FROM users
WHERE email = :email;

-- name: find_user(user_id)^
-- An account by its id.
SELECT id, tenant_id, email, full_name, role, email_verified, created_at
FROM users
WHERE id = :user_id;

-- name: update_full_name(full_name, user_id)^
-- The account with its new name.
UPDATE users
SET full_name = :full_name, updated_at = now()
WHERE id = :user_id
RETURNING id, tenant_id, email, full_name, role, email_verified, created_at;

-- name: lock_owner_of_token(token_hash)^
-- The account that a refresh token belongs to, locked: refreshes and logouts of one account take turns.
SELECT u.id, u.tenant_id, u.email, u.full_name, u.role, u.email_verified, u.created_at
FROM users u
WHERE u.id = (SELECT t.user_id FROM refresh_tokens t WHERE t.token_hash = :token_hash)
FOR NO KEY UPDATE;

-- name: lock_user(user_id)^
-- Take the same lock by the account's id.
SELECT id FROM users WHERE id = :user_id FOR NO KEY UPDATE;

-- name: find_refresh_token(grace_s, token_hash)^
-- Where a token stands in its family. Read after the lock, so with a snapshot of its own.
SELECT
    t.family_id,
    t.generation,
    t.used_at IS NOT NULL AS is_used,
    t.expires_at <= clock_timestamp() AS is_expired,
    t.generation = (SELECT max(n.generation) FROM refresh_tokens n WHERE n.family_id = t.family_id) - 1
        AND t.used_at >= clock_timestamp() - make_interval(secs => :grace_s) AS is_forgiven
FROM refresh_tokens t
WHERE t.token_hash = :token_hash;

-- name: insert_refresh_token(token_hash, family_id, user_id, generation, ttl_s)!
-- A token of a new or of an existing family.
INSERT INTO refresh_tokens (token_hash, family_id, user_id, generation, expires_at)
VALUES (:token_hash, :family_id, :user_id, :generation, now() + make_interval(secs => :ttl_s));

-- name: mark_used(token_hash)!
-- A token has been exchanged for its successor.
UPDATE refresh_tokens SET used_at = clock_timestamp() WHERE token_hash = :token_hash;

-- name: end_family(family_id)!
-- Forget one login with all its tokens.
DELETE FROM refresh_tokens WHERE family_id = :family_id;

-- name: end_family_of_token(user_id, token_hash)!
-- Forget the login that a token belongs to, if it is this account's.
DELETE FROM refresh_tokens
WHERE user_id = :user_id
  AND family_id = (SELECT t.family_id FROM refresh_tokens t WHERE t.token_hash = :token_hash);

-- name: end_all_families(user_id)!
-- Forget every login of an account.
DELETE FROM refresh_tokens WHERE user_id = :user_id;

-- name: delete_expired_tokens(user_id)!
-- Keep an account's list of tokens short.
DELETE FROM refresh_tokens WHERE user_id = :user_id AND expires_at < now();
