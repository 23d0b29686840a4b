-- migrate:up

-- An operator has closed it: recovery leaves it closed for as long as this says when.
ALTER TABLE cells ADD COLUMN fenced_at timestamptz;

-- The same for everything: recovery loads no scripts while this has its one row.
CREATE TABLE fence (
    is_closed boolean PRIMARY KEY DEFAULT true CHECK (is_closed),
    fenced_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE fence;
ALTER TABLE cells DROP COLUMN fenced_at;
