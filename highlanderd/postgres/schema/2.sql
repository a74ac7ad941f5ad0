-- Schema 2: a ledger knows who it is and which daemons may use it, and each row carries its own lease.

ALTER TABLE {schema}.meta
    ADD COLUMN compatible_from    integer NOT NULL DEFAULT 2,
    ADD COLUMN ledger             uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN settled_place      text,
    ADD COLUMN ceiling            interval,
    ADD COLUMN maintenance_for    interval,
    ADD COLUMN maintenance_lease  interval,
    ADD COLUMN maintenance_since  timestamptz,
    ADD COLUMN maintenance_until  timestamptz,
    ADD COLUMN maintenance_by     text,
    ADD COLUMN maintenance_reason text;
UPDATE {schema}.meta SET version = 2, ceiling = lease;
ALTER TABLE {schema}.meta
    ALTER COLUMN ceiling SET NOT NULL,
    ADD CHECK (ceiling >= lease),
    ADD CHECK (maintenance_lease <= ceiling),
    ADD CHECK (jsonb_typeof(offsets) = 'object');
COMMENT ON TABLE {schema}.meta IS 'One row about the ledger itself. Only daemons change it; see highlanderctl ledger and maintenance.';
COMMENT ON COLUMN {schema}.meta.ceiling IS 'The longest lease that any leader may have been promised.';

ALTER TABLE {schema}.lease ADD COLUMN trusted_for interval;
UPDATE {schema}.lease SET trusted_for = (SELECT lease FROM {schema}.meta);
ALTER TABLE {schema}.lease ALTER COLUMN trusted_for SET NOT NULL;
COMMENT ON COLUMN {schema}.lease.trusted_for IS 'The lease of this version of the row: its leader trusts it for so long.';

CREATE INDEX term_open ON {schema}.term (lock_id, epoch) WHERE ended_at IS NULL;

-- It refused while anything was led; daemons change the lease themselves now, in steps that are safe meanwhile.
DROP FUNCTION {schema}.set_lease(interval);
