-- Made by `make schema` from the migrations. Do not edit; a test compares it.

CREATE TABLE public.audit_logs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid,
    action text NOT NULL,
    entity_type text,
    entity_id uuid,
    old_values jsonb,
    new_values jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY RANGE (created_at);

CREATE TABLE public.audit_logs_default (
    id uuid DEFAULT gen_random_uuid() CONSTRAINT audit_logs_id_not_null NOT NULL,
    user_id uuid,
    action text CONSTRAINT audit_logs_action_not_null NOT NULL,
    entity_type text,
    entity_id uuid,
    old_values jsonb,
    new_values jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT audit_logs_created_at_not_null NOT NULL
);

CREATE TABLE public.booking_items (
    booking_id uuid NOT NULL,
    zone_id uuid NOT NULL,
    quantity integer NOT NULL,
    unit_price_minor bigint NOT NULL,
    CONSTRAINT booking_items_quantity_check CHECK ((quantity >= 1)),
    CONSTRAINT booking_items_unit_price_minor_check CHECK ((unit_price_minor >= 0))
);

CREATE TABLE public.bookings (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    user_id uuid NOT NULL,
    status text NOT NULL,
    version integer NOT NULL,
    fingerprint text,
    quantity integer NOT NULL,
    total_minor bigint NOT NULL,
    currency text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    confirmed_at timestamp with time zone,
    ended_at timestamp with time zone,
    confirmation_code text,
    ledger_epoch bigint NOT NULL,
    ledger_seq bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT bookings_confirmed CHECK (((status <> 'confirmed'::text) OR ((confirmed_at IS NOT NULL) AND (confirmation_code IS NOT NULL)))),
    CONSTRAINT bookings_confirmed_in_time CHECK (((confirmed_at IS NULL) OR (confirmed_at < expires_at))),
    CONSTRAINT bookings_ended CHECK (((status = ANY (ARRAY['cancelled'::text, 'expired'::text])) = (ended_at IS NOT NULL))),
    CONSTRAINT bookings_expired_late CHECK (((status <> 'expired'::text) OR (ended_at >= expires_at))),
    CONSTRAINT bookings_quantity_check CHECK ((quantity >= 1)),
    CONSTRAINT bookings_reserved CHECK (((status <> 'reserved'::text) OR ((confirmed_at IS NULL) AND (ended_at IS NULL)))),
    CONSTRAINT bookings_status_check CHECK ((status = ANY (ARRAY['reserved'::text, 'confirmed'::text, 'cancelled'::text, 'expired'::text]))),
    CONSTRAINT bookings_total_minor_check CHECK ((total_minor >= 0)),
    CONSTRAINT bookings_version_check CHECK ((version >= 1))
)
WITH (fillfactor='85');

CREATE TABLE public.categories (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    slug text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT categories_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT categories_slug_check CHECK ((slug ~ '^[a-z0-9-]{1,100}$'::text))
);

CREATE TABLE public.cells (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    event_id uuid NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    replid text,
    edit_version bigint DEFAULT 0 NOT NULL,
    applied_version bigint DEFAULT 0 NOT NULL,
    opened_at timestamp with time zone,
    closed_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    fenced_at timestamp with time zone,
    CONSTRAINT cells_applied_version_check CHECK ((applied_version >= 0)),
    CONSTRAINT cells_cell_check CHECK (((cell >= 0) AND (cell <= 4095))),
    CONSTRAINT cells_check CHECK ((applied_version <= edit_version)),
    CONSTRAINT cells_edit_version_check CHECK ((edit_version >= 0)),
    CONSTRAINT cells_epoch_check CHECK ((epoch >= 0)),
    CONSTRAINT cells_event_ref_check CHECK (((event_ref >= 0) AND (event_ref <= '281474976710655'::bigint))),
    CONSTRAINT cells_seq_check CHECK ((seq >= 0))
);

CREATE TABLE public.dead_letters (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    booking_id uuid,
    entry jsonb NOT NULL,
    sqlstate text NOT NULL,
    reason text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    returned_at timestamp with time zone
);

CREATE TABLE public.edits (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    version bigint NOT NULL,
    intent jsonb NOT NULL,
    requested_by uuid,
    outcome text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    decided_at timestamp with time zone,
    CONSTRAINT edits_check CHECK (((outcome IS NULL) = (decided_at IS NULL))),
    CONSTRAINT edits_outcome_check CHECK ((outcome = ANY (ARRAY['applied'::text, 'refused'::text]))),
    CONSTRAINT edits_version_check CHECK ((version >= 1))
);

CREATE TABLE public.events (
    id uuid NOT NULL,
    tenant_id uuid,
    organizer_id uuid NOT NULL,
    category_id uuid,
    title text NOT NULL,
    slug text NOT NULL,
    description text,
    venue text,
    image_url text,
    currency text NOT NULL,
    status text DEFAULT 'draft'::text NOT NULL,
    sale_start_at timestamp with time zone NOT NULL,
    sale_end_at timestamp with time zone,
    max_per_user integer DEFAULT 4 NOT NULL,
    hold_ttl_seconds integer DEFAULT 600 NOT NULL,
    refund_policy jsonb DEFAULT '[{"percent": 100, "days_before": 7}, {"percent": 50, "days_before": 3}]'::jsonb NOT NULL,
    waiting_room jsonb,
    booking_secret bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT events_booking_secret_check CHECK ((length(booking_secret) = 32)),
    CONSTRAINT events_check CHECK ((sale_end_at > sale_start_at)),
    CONSTRAINT events_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT events_hold_ttl_seconds_check CHECK (((hold_ttl_seconds >= 1) AND (hold_ttl_seconds <= 3600))),
    CONSTRAINT events_max_per_user_check CHECK ((max_per_user >= 1)),
    CONSTRAINT events_slug_check CHECK ((slug ~ '^[a-z0-9-]{1,100}$'::text)),
    CONSTRAINT events_status_check CHECK ((status = ANY (ARRAY['draft'::text, 'published'::text, 'paused'::text, 'cancelled'::text]))),
    CONSTRAINT events_title_check CHECK (((length(title) >= 1) AND (length(title) <= 255)))
);

CREATE TABLE public.fence (
    is_closed boolean DEFAULT true NOT NULL,
    fenced_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT fence_is_closed_check CHECK (is_closed)
);

CREATE TABLE public.lottery_chunks (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    chunk integer NOT NULL,
    root bytea NOT NULL,
    CONSTRAINT lottery_chunks_chunk_check CHECK ((chunk >= 0)),
    CONSTRAINT lottery_chunks_root_check CHECK ((length(root) = 32))
);

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id uuid NOT NULL,
    version bigint NOT NULL,
    event_type text NOT NULL,
    payload json NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1000
);

CREATE TABLE public.payments (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    booking_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    refunded_minor bigint DEFAULT 0 NOT NULL,
    currency text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    payment_method text,
    provider text,
    transaction_id text,
    failed_reason text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT payments_amount_minor_check CHECK ((amount_minor >= 0)),
    CONSTRAINT payments_check CHECK (((refunded_minor >= 0) AND (refunded_minor <= amount_minor))),
    CONSTRAINT payments_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'authorized'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text, 'refund_pending'::text, 'refunded'::text])))
);

CREATE TABLE public.queue_passes (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    user_id uuid NOT NULL,
    number integer NOT NULL,
    place integer NOT NULL,
    claimed_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    booking_id uuid,
    ended_at timestamp with time zone,
    CONSTRAINT queue_passes_number_check CHECK ((number >= 1)),
    CONSTRAINT queue_passes_place_check CHECK ((place >= 1))
)
WITH (fillfactor='85');

CREATE TABLE public.queue_places (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    number integer NOT NULL,
    user_id uuid NOT NULL,
    joined_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT queue_places_number_check CHECK ((number >= 1))
)
WITH (fillfactor='90');

CREATE TABLE public.queue_waves (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    to_place integer NOT NULL,
    from_place integer NOT NULL,
    people integer NOT NULL,
    served_at timestamp with time zone NOT NULL,
    CONSTRAINT queue_waves_check CHECK ((from_place <= to_place)),
    CONSTRAINT queue_waves_from_place_check CHECK ((from_place >= 1)),
    CONSTRAINT queue_waves_people_check CHECK ((people >= 0))
);

CREATE TABLE public.refresh_tokens (
    token_hash bytea NOT NULL,
    family_id uuid NOT NULL,
    user_id uuid NOT NULL,
    generation integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    CONSTRAINT refresh_tokens_generation_check CHECK ((generation >= 0)),
    CONSTRAINT refresh_tokens_token_hash_check CHECK ((length(token_hash) = 32))
);

CREATE TABLE public.seat_zones (
    id uuid NOT NULL,
    show_id uuid NOT NULL,
    event_id uuid NOT NULL,
    kind text DEFAULT 'counted'::text NOT NULL,
    name text NOT NULL,
    price_minor bigint NOT NULL,
    max_per_order integer DEFAULT 10 NOT NULL,
    capacity integer NOT NULL,
    available_seats integer NOT NULL,
    reserved integer DEFAULT 0 NOT NULL,
    confirmed integer DEFAULT 0 NOT NULL,
    blocked integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT seat_zones_add_up CHECK (((((available_seats + reserved) + confirmed) + blocked) = capacity)),
    CONSTRAINT seat_zones_available_seats_check CHECK ((available_seats >= 0)),
    CONSTRAINT seat_zones_blocked_check CHECK ((blocked >= 0)),
    CONSTRAINT seat_zones_capacity_check CHECK ((capacity >= 0)),
    CONSTRAINT seat_zones_confirmed_check CHECK ((confirmed >= 0)),
    CONSTRAINT seat_zones_kind_check CHECK ((kind = 'counted'::text)),
    CONSTRAINT seat_zones_max_per_order_check CHECK ((max_per_order >= 1)),
    CONSTRAINT seat_zones_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT seat_zones_price_minor_check CHECK ((price_minor >= 0)),
    CONSTRAINT seat_zones_reserved_check CHECK ((reserved >= 0))
);

CREATE TABLE public.shows (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    show_date timestamp with time zone NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT shows_status_check CHECK ((status = ANY (ARRAY['active'::text, 'cancelled'::text])))
);

CREATE TABLE public.tenants (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    slug text NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT tenants_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT tenants_slug_check CHECK ((slug ~ '^[a-z0-9-]{1,100}$'::text)),
    CONSTRAINT tenants_status_check CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text])))
);

CREATE TABLE public.users (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    tenant_id uuid,
    email text NOT NULL,
    password_hash text NOT NULL,
    full_name text NOT NULL,
    role text DEFAULT 'user'::text NOT NULL,
    email_verified boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT users_email_check CHECK ((email = lower(email))),
    CONSTRAINT users_full_name_check CHECK (((length(full_name) >= 1) AND (length(full_name) <= 255))),
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['user'::text, 'organizer'::text, 'admin'::text])))
);

CREATE TABLE public.waiting_rooms (
    event_ref bigint NOT NULL,
    cell integer NOT NULL,
    mode text NOT NULL,
    tail integer DEFAULT 0 NOT NULL,
    serving integer DEFAULT 0 NOT NULL,
    gaps text DEFAULT ''::text NOT NULL,
    admitted bigint DEFAULT 0 NOT NULL,
    claimed bigint DEFAULT 0 NOT NULL,
    spent bigint DEFAULT 0 NOT NULL,
    units bigint DEFAULT 0 NOT NULL,
    lapsed bigint DEFAULT 0 NOT NULL,
    entrants integer,
    frozen_at timestamp with time zone,
    frozen_epoch bigint,
    frozen_seq bigint,
    drawn_at timestamp with time zone,
    public_round text,
    seed bytea,
    commitment bytea,
    randomness bytea,
    signature bytea,
    root bytea,
    key bytea,
    is_signature_checked boolean DEFAULT false NOT NULL,
    CONSTRAINT waiting_rooms_admitted_check CHECK ((admitted >= 0)),
    CONSTRAINT waiting_rooms_claimed_check CHECK ((claimed >= 0)),
    CONSTRAINT waiting_rooms_commitment_check CHECK ((length(commitment) = 32)),
    CONSTRAINT waiting_rooms_committed CHECK (((mode <> 'lottery'::text) OR ((seed IS NOT NULL) AND (commitment IS NOT NULL)))),
    CONSTRAINT waiting_rooms_drawn CHECK (((drawn_at IS NULL) OR ((entrants IS NOT NULL) AND (key IS NOT NULL)))),
    CONSTRAINT waiting_rooms_entrants CHECK ((entrants <= tail)),
    CONSTRAINT waiting_rooms_entrants_check CHECK ((entrants >= 0)),
    CONSTRAINT waiting_rooms_frozen CHECK (((frozen_at IS NULL) = (entrants IS NULL))),
    CONSTRAINT waiting_rooms_key_check CHECK ((length(key) = 32)),
    CONSTRAINT waiting_rooms_lapsed_check CHECK ((lapsed >= 0)),
    CONSTRAINT waiting_rooms_mode_check CHECK ((mode = ANY (ARRAY['open'::text, 'lottery'::text]))),
    CONSTRAINT waiting_rooms_root_check CHECK ((length(root) = 32)),
    CONSTRAINT waiting_rooms_seed_check CHECK ((length(seed) = 32)),
    CONSTRAINT waiting_rooms_serving CHECK ((serving <= tail)),
    CONSTRAINT waiting_rooms_serving_check CHECK ((serving >= 0)),
    CONSTRAINT waiting_rooms_spent_check CHECK ((spent >= 0)),
    CONSTRAINT waiting_rooms_tail_check CHECK ((tail >= 0)),
    CONSTRAINT waiting_rooms_units_check CHECK ((units >= 0))
);

ALTER TABLE ONLY public.audit_logs ATTACH PARTITION public.audit_logs_default DEFAULT;

ALTER TABLE ONLY public.audit_logs
    ADD CONSTRAINT audit_logs_pkey PRIMARY KEY (id, created_at);

ALTER TABLE ONLY public.audit_logs_default
    ADD CONSTRAINT audit_logs_default_pkey PRIMARY KEY (id, created_at);

ALTER TABLE ONLY public.booking_items
    ADD CONSTRAINT booking_items_pkey PRIMARY KEY (booking_id, zone_id);

ALTER TABLE ONLY public.bookings
    ADD CONSTRAINT bookings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.categories
    ADD CONSTRAINT categories_name_key UNIQUE (name);

ALTER TABLE ONLY public.categories
    ADD CONSTRAINT categories_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.categories
    ADD CONSTRAINT categories_slug_key UNIQUE (slug);

ALTER TABLE ONLY public.cells
    ADD CONSTRAINT cells_pkey PRIMARY KEY (event_ref, cell);

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (event_ref, cell, epoch, seq);

ALTER TABLE ONLY public.edits
    ADD CONSTRAINT edits_pkey PRIMARY KEY (event_ref, cell, version);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_slug_key UNIQUE (slug);

ALTER TABLE ONLY public.fence
    ADD CONSTRAINT fence_pkey PRIMARY KEY (is_closed);

ALTER TABLE ONLY public.lottery_chunks
    ADD CONSTRAINT lottery_chunks_pkey PRIMARY KEY (event_ref, cell, chunk);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.queue_passes
    ADD CONSTRAINT queue_passes_pkey PRIMARY KEY (event_ref, cell, user_id);

ALTER TABLE ONLY public.queue_places
    ADD CONSTRAINT queue_places_pkey PRIMARY KEY (event_ref, cell, number);

ALTER TABLE ONLY public.queue_waves
    ADD CONSTRAINT queue_waves_pkey PRIMARY KEY (event_ref, cell, to_place);

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY public.seat_zones
    ADD CONSTRAINT seat_zones_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.shows
    ADD CONSTRAINT shows_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_slug_key UNIQUE (slug);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_key UNIQUE (email);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.waiting_rooms
    ADD CONSTRAINT waiting_rooms_pkey PRIMARY KEY (event_ref, cell);

CREATE INDEX bookings_user ON public.bookings USING btree (user_id, created_at DESC);

CREATE INDEX dead_letters_booking ON public.dead_letters USING btree (booking_id);

CREATE INDEX dead_letters_to_return ON public.dead_letters USING btree (created_at) WHERE (returned_at IS NULL);

CREATE INDEX events_listed ON public.events USING btree (status, created_at DESC);

CREATE INDEX events_sale_start ON public.events USING btree (sale_start_at);

CREATE INDEX events_tenant ON public.events USING btree (tenant_id, created_at DESC);

CREATE INDEX payments_booking ON public.payments USING btree (booking_id);

CREATE INDEX payments_unfinished ON public.payments USING btree (updated_at) WHERE (status = ANY (ARRAY['pending'::text, 'authorized'::text, 'refund_pending'::text]));

CREATE INDEX refresh_tokens_family ON public.refresh_tokens USING btree (family_id);

CREATE INDEX refresh_tokens_user ON public.refresh_tokens USING btree (user_id);

CREATE INDEX seat_zones_event ON public.seat_zones USING btree (event_id);

CREATE INDEX seat_zones_show ON public.seat_zones USING btree (show_id);

CREATE INDEX shows_date ON public.shows USING btree (show_date);

CREATE INDEX shows_event ON public.shows USING btree (event_id);

CREATE INDEX users_tenant ON public.users USING btree (tenant_id);

ALTER INDEX public.audit_logs_pkey ATTACH PARTITION public.audit_logs_default_pkey;

ALTER TABLE ONLY public.cells
    ADD CONSTRAINT cells_event_id_fkey FOREIGN KEY (event_id) REFERENCES public.events(id);

ALTER TABLE ONLY public.edits
    ADD CONSTRAINT edits_event_ref_cell_fkey FOREIGN KEY (event_ref, cell) REFERENCES public.cells(event_ref, cell);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_category_id_fkey FOREIGN KEY (category_id) REFERENCES public.categories(id);

ALTER TABLE ONLY public.lottery_chunks
    ADD CONSTRAINT lottery_chunks_event_ref_cell_fkey FOREIGN KEY (event_ref, cell) REFERENCES public.waiting_rooms(event_ref, cell);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_booking_id_fkey FOREIGN KEY (booking_id) REFERENCES public.bookings(id);

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.seat_zones
    ADD CONSTRAINT seat_zones_event_id_fkey FOREIGN KEY (event_id) REFERENCES public.events(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.seat_zones
    ADD CONSTRAINT seat_zones_show_id_fkey FOREIGN KEY (show_id) REFERENCES public.shows(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.shows
    ADD CONSTRAINT shows_event_id_fkey FOREIGN KEY (event_id) REFERENCES public.events(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.waiting_rooms
    ADD CONSTRAINT waiting_rooms_event_ref_cell_fkey FOREIGN KEY (event_ref, cell) REFERENCES public.cells(event_ref, cell);
