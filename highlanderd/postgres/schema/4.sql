-- Schema 4: schedules. The ledger keeps the latest time of each that was run or skipped, so no time is run twice.

CREATE TABLE {schema}.schedule (
    lock_id    bigint PRIMARY KEY,
    program    text NOT NULL,
    words      text NOT NULL,
    taken_up   timestamptz NOT NULL,
    latest     timestamptz NOT NULL,
    epoch      bigint,
    held_from  timestamptz,
    held_until timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE {schema}.schedule IS 'One row per program that has a schedule, once a node has looked at it.';
COMMENT ON COLUMN {schema}.schedule.words IS 'The schedule and its time zone, as the configuration says them.';
COMMENT ON COLUMN {schema}.schedule.taken_up IS 'When a node brought these words.';
COMMENT ON COLUMN {schema}.schedule.latest IS 'The latest time that was run or skipped; a takeover and this are written together.';
COMMENT ON COLUMN {schema}.schedule.epoch IS 'The term that was begun for it; null when it was skipped.';
COMMENT ON COLUMN {schema}.schedule.held_from IS 'From then to held_until the program was stopped everywhere the last time.';

CREATE TABLE {schema}.skipped (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lock_id     bigint NOT NULL,
    program     text NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    times       integer NOT NULL,
    reason      text NOT NULL,
    node        text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX skipped_of ON {schema}.skipped (lock_id, id);
COMMENT ON TABLE {schema}.skipped IS 'History: the scheduled times that were not run, as many in a row as have one reason.';

ALTER TABLE {schema}.term ADD COLUMN scheduled_at timestamptz;
COMMENT ON COLUMN {schema}.term.scheduled_at IS 'The scheduled time that the term was begun for.';

-- Who lifts a stop need not know of schedules.
CREATE FUNCTION {schema}.note_held() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE {schema}.schedule SET held_from = OLD.since, held_until = clock_timestamp() WHERE lock_id = OLD.lock_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_held AFTER DELETE ON {schema}.wish FOR EACH ROW EXECUTE FUNCTION {schema}.note_held();

-- Daemons of schemas 2 and 3 go on together with newer ones, so compatible_from stays. A role that may lead may use the
-- new tables, and one that may read the history may read them. Only the history is ever pruned.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT pg_get_userbyid(a.grantee) AS role, a.privilege_type = 'UPDATE' AS leads
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE (c.oid, a.privilege_type) IN ((({schema_text} || '.lease')::regclass, 'UPDATE'),
                                             (({schema_text} || '.term')::regclass, 'SELECT'))
           AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE format('GRANT SELECT ON %1$s.schedule, %1$s.skipped TO %2$I', {schema_text}, granted.role);
        IF granted.leads THEN
            EXECUTE format('GRANT INSERT, UPDATE ON %1$s.schedule, %1$s.skipped TO %2$I', {schema_text}, granted.role);
            EXECUTE format('GRANT DELETE ON %1$s.skipped TO %2$I', {schema_text}, granted.role);
        END IF;
    END LOOP;
END
$$;

UPDATE {schema}.meta SET version = 4;
