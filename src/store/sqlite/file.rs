//! The database file as a whole: copied while it is used, examined, brought to this build's schema.

use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::hold::Hold;
use super::schema::{self, Migrated};
use super::{BUSY_TIMEOUT, ledger};
use crate::store::{AuditState, StoreError};

/// What a database file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    pub schema: u32,
    pub audit: AuditState,
}

/// Copies all of one moment, while others read and write; `to` must not exist.
pub fn snapshot(store: &Path, to: &Path) -> Result<(), StoreError> {
    let _hold = Hold::shared(store)?;
    let source = open(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut copy = Connection::open(to)?;
    let backup = Backup::new(&source, &mut copy)?;
    // In one step, so that no write falls between two pages. In WAL mode nobody who writes waits for
    // it; the log grows meanwhile, since it cannot begin anew while it is read.
    let stepped = backup.step(-1)?;
    if stepped != StepResult::Done {
        let reason = format!("{}: cannot be copied now ({stepped:?})", store.display());
        return Err(StoreError::Unavailable(reason));
    }
    drop(backup);
    // One file, without a log beside it.
    copy.execute_batch("PRAGMA journal_mode = DELETE")?;
    Ok(())
}

/// Reads every page of a store of this build or an earlier one, and its audit log.
pub fn examine(path: &Path) -> Result<Examined, StoreError> {
    let corrupt = |reason| StoreError::Corrupt { what: "database", reason };
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|e| corrupt(e.to_string()))?;
    if found != "ok" {
        return Err(corrupt(found));
    }
    let schema = schema::version(&connection)?;
    if schema == 0 {
        return Err(corrupt("it is no store of this program".into()));
    }
    Ok(Examined { schema, audit: ledger::verify_audit(&connection)? })
}

/// Brings a store that is there to this build's schema.
pub fn migrate(store: &Path) -> Result<Migrated, StoreError> {
    let _hold = Hold::shared(store)?;
    let mut connection = open(store, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    schema::migrate(&mut connection)
}

/// Never makes a file.
fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let tell = |e: rusqlite::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
    let connection = Connection::open_with_flags(path, flags).map_err(tell)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(tell)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Store, contract};

    #[test]
    fn a_copy_is_of_one_moment_while_others_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huida.db");
        let store = SqliteStore::open(&path).unwrap();
        // Each import is an entry and its line in the audit log, or neither.
        let (writes, copies) = (60, 6);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..writes {
                    contract::import_one(&store, &format!("e{n}"), &format!("问题{n}"));
                }
            });
            for n in 0..copies {
                let to = dir.path().join(format!("copy{n}.db"));
                snapshot(&path, &to).unwrap();
                let Examined { audit: AuditState::Intact { rows }, .. } = examine(&to).unwrap()
                else {
                    panic!("the chain of copy {n} is broken")
                };
                let copy = SqliteStore::open(&to).unwrap();
                assert_eq!(copy.entries().unwrap().len(), usize::try_from(rows).unwrap());
            }
        });
        assert_eq!(store.entries().unwrap().len(), writes);
    }

    #[test]
    fn every_earlier_schema_is_brought_to_this_one_and_keeps_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        for from in 1..=schema::STEPS.len() {
            let path = dir.path().join(format!("v{from}.db"));
            let raw = Connection::open(&path).unwrap();
            for step in &schema::STEPS[..from] {
                raw.execute_batch(step).unwrap();
            }
            raw.execute_batch("INSERT INTO customers (created_at) VALUES (7)").unwrap();
            raw.pragma_update(None, "user_version", i64::try_from(from).unwrap()).unwrap();
            drop(raw);
            let migrated = migrate(&path).unwrap();
            assert_eq!((migrated.from as usize, migrated.to as usize), (from, schema::STEPS.len()));
            assert_eq!(
                migrate(&path).unwrap().from,
                migrated.to,
                "the second time nothing is to do"
            );
            contract::import_one(&SqliteStore::open(&path).unwrap(), "a", "怎么退货");
            let raw = Connection::open(&path).unwrap();
            let kept: i64 =
                raw.query_row("SELECT created_at FROM customers", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, 7);
        }
    }

    #[test]
    fn what_is_no_store_is_named_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.db");
        assert!(migrate(&path).is_err() && snapshot(&path, &dir.path().join("c.db")).is_err());
        assert!(!path.exists());
        std::fs::write(&path, "not a database, but long enough to look at").unwrap();
        assert!(examine(&path).is_err());
        Connection::open(dir.path().join("other.db"))
            .unwrap()
            .execute_batch("CREATE TABLE t (a)")
            .unwrap();
        let other = examine(&dir.path().join("other.db"));
        assert!(matches!(other, Err(StoreError::Corrupt { .. })), "{other:?}");
    }

    #[test]
    fn the_file_is_used_by_many_or_replaced_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huida.db");
        let store = SqliteStore::open(&path).unwrap();
        SqliteStore::open(&path).unwrap();
        assert!(matches!(Hold::sole(&path), Err(StoreError::InUse(_))));
        drop(store);
        let sole = Hold::sole(&path).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Replaced(_))));
        drop(sole);
        SqliteStore::open(&path).unwrap();
    }
}
