-- Schema 3: what the cluster shares, in addition to its terms. None of it decides who leads. What it says of a program that is
-- stopped everywhere, and of a node that is drained, can only keep a term from beginning, or end it in good order.

CREATE TABLE {schema}.node (
    name           text PRIMARY KEY,
    instance       uuid,
    version        text,
    advertise      text,
    backend_pid    integer,
    started        timestamptz,
    seen           timestamptz,
    drained_since  timestamptz,
    drained_by     text,
    drained_reason text
) WITH (fillfactor = 50);
COMMENT ON TABLE {schema}.node IS 'One row per node, written by its daemon about once a lease. A drained node leads nothing.';
COMMENT ON COLUMN {schema}.node.backend_pid IS 'Of the listening session: while that one lives, the daemon does.';

CREATE TABLE {schema}.candidate (
    node    text NOT NULL,
    program text NOT NULL,
    lock_id bigint NOT NULL,
    state   text NOT NULL,
    able    boolean NOT NULL,
    reason  text NOT NULL,
    ready   boolean NOT NULL,
    since   timestamptz NOT NULL,
    digests jsonb NOT NULL,
    PRIMARY KEY (node, program)
);
COMMENT ON TABLE {schema}.candidate IS 'Each program of each node, written by its daemon when it changes.';
COMMENT ON COLUMN {schema}.candidate.able IS 'Whether this node could lead it; reason says why not.';
COMMENT ON COLUMN {schema}.candidate.digests IS 'By key of the configuration, a digest of its value.';

CREATE TABLE {schema}.wish (
    lock_id bigint PRIMARY KEY,
    program text NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    author  text NOT NULL,
    role    text NOT NULL DEFAULT session_user,
    reason  text NOT NULL
);
COMMENT ON TABLE {schema}.wish IS 'The programs that no node may lead, because an operator has stopped them everywhere.';

CREATE TABLE {schema}.command (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node      text NOT NULL,
    verb      text NOT NULL,
    program   text NOT NULL,
    arguments jsonb NOT NULL,
    author    text NOT NULL,
    role      text NOT NULL DEFAULT session_user,
    reason    text NOT NULL,
    ordered   timestamptz NOT NULL DEFAULT clock_timestamp(),
    deadline  timestamptz NOT NULL,
    taken_by  uuid,
    answered  timestamptz,
    answer    jsonb
);
CREATE INDEX command_open ON {schema}.command (node, id) WHERE taken_by IS NULL;
COMMENT ON TABLE {schema}.command IS 'Orders for one node. Its daemon takes each at most once, before its deadline.';

CREATE TABLE {schema}.event (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    event   text NOT NULL,
    node    text,
    program text,
    lock_id bigint,
    epoch   bigint,
    author  text,
    role    text NOT NULL DEFAULT session_user,
    reason  text NOT NULL
);
COMMENT ON TABLE {schema}.event IS 'What has happened, terms apart: drains, stops, alarms. The oldest are removed.';

-- The daemon that passes the order on names the author. The server itself knows the role.
CREATE FUNCTION {schema}.note_role() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.role := session_user;
    RETURN NEW;
END
$$;
CREATE TRIGGER note_role BEFORE INSERT ON {schema}.wish FOR EACH ROW EXECUTE FUNCTION {schema}.note_role();
CREATE TRIGGER note_role BEFORE INSERT ON {schema}.command FOR EACH ROW EXECUTE FUNCTION {schema}.note_role();
CREATE TRIGGER note_role BEFORE INSERT ON {schema}.event FOR EACH ROW EXECUTE FUNCTION {schema}.note_role();

-- "reason" is the cause, a word; "remark" is the text that the operator gave with the order.
ALTER TABLE {schema}.term
    ADD COLUMN exit_status   integer,
    ADD COLUMN exit_signal   text,
    ADD COLUMN author        text,
    ADD COLUMN remark        text,
    ADD COLUMN previous_node text,
    ADD COLUMN lease         interval;

-- Daemons of schema 2 go on together with newer ones, so compatible_from stays. A role that may lead may use the new tables.
DO $$
DECLARE
    leader name;
BEGIN
    FOR leader IN
        SELECT DISTINCT pg_get_userbyid(a.grantee)
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid = ({schema_text} || '.lease')::regclass AND a.privilege_type = 'UPDATE'
           AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %1$s.node, %1$s.candidate, %1$s.wish, %1$s.command, '
                       '%1$s.event TO %2$I', {schema_text}, leader);
    END LOOP;
END
$$;

UPDATE {schema}.meta SET version = 3;
