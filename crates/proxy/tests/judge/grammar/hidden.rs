//! Changes of a session that the statement's text does not show.

use super::Maker;

impl Maker {
    pub(super) fn hidden(&mut self) -> String {
        let s = self.schema('a');
        let (name, value) = self.setting();
        let (name, value) = (name.replace('\'', "''"), value.replace(['\'', '\\'], ""));
        let slot = self.slot;
        match self.below(40) {
            0 => format!("SELECT {s}.does('SET application_name TO ''inside''')"),
            1 => format!("SELECT {s}.does('LISTEN c{slot}_0')"),
            2 => format!("SELECT {s}.does('CREATE TEMP TABLE tmp1(a int)')"),
            3 => format!("SELECT {s}.does('PREPARE p1 AS SELECT 1')"),
            4 => format!("SELECT {s}.does('DECLARE k1 CURSOR WITH HOLD FOR SELECT 1')"),
            6 if !self.tames_resets => format!("SELECT {s}.does('RESET ALL')"),
            5..=6 => format!("SELECT {s}.does('SET LOCAL work_mem TO ''2MB''')"),
            7 => format!("SELECT {s}.does('UNLISTEN *')"),
            8..=9 => format!("SELECT {s}.sets('{name}', '{value}')"),
            10 => "SELECT sets('work_mem', '777kB')".to_owned(),
            11 => format!("SELECT {s}.plainly()"),
            12 => format!("SELECT {s}.locally(), {s}.back()"),
            13 => format!("CALL {s}.commits('by call')"),
            14..=15 => format!("INSERT INTO {s}.hot VALUES ('{name}', '{value}')"),
            // Also a time limit, that nothing here needs.
            16 => format!("UPDATE {s}.hot SET value = '30000'"),
            17 => format!("INSERT INTO {s}.late VALUES ('app.two', 'at commit')"),
            18 => format!("SELECT * FROM {s}.seen"),
            19 => "SELECT a FROM over".to_owned(),
            20 => format!("INSERT INTO {s}.ruled VALUES (8)"),
            21 => format!("SELECT 5::{s}.dom"),
            22 => format!("INSERT INTO {s}.filled(id) VALUES (1)"),
            23 => format!("SELECT * FROM {s}.guarded ORDER BY id"),
            24 => format!("SELECT 3 OPERATOR({s}.===) 4"),
            25 => "SELECT 3 === 4".to_owned(),
            26 => format!("SELECT {s}.gathered(g) FROM generate_series(1, 3) g"),
            27 => format!("SELECT ROW(1, 2)::{s}.pair::text"),
            28 => "SELECT upper('shadowed')".to_owned(),
            29 => format!("SET search_path = {s}, pg_catalog"),
            30 => "SELECT lower(5::bigint)".to_owned(),
            31 => format!("SELECT {s}.makes()"),
            32 => format!("SELECT {s}.holds({}), {s}.harmless(1)", slot * 10),
            33 => format!("SELECT {s}.harmless(2)"),
            34 => format!("ALTER TABLE {s}.grows ADD COLUMN IF NOT EXISTS b int DEFAULT 5"),
            35 => format!("SELECT * FROM {s}.grows"),
            36 => format!("ALTER TABLE {s}.grows DROP COLUMN IF EXISTS b"),
            37 => format!(
                "CREATE OR REPLACE FUNCTION {s}.harmless(a int) RETURNS int LANGUAGE sql AS \
                 'SELECT set_config(''app.two'', a::text, false)::int'"
            ),
            38 => format!(
                "DO $do$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {s}.over LOOP END LOOP; END $do$"
            ),
            _ => format!(
                "MERGE INTO {s}.hot h USING (SELECT 'app.one' AS n) x ON h.name = x.n \
                 WHEN NOT MATCHED THEN INSERT VALUES (x.n, 'merged')"
            ),
        }
    }
}
