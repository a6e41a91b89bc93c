//! Brings a database file to the schema of this build, step by step.

use rusqlite::Connection;

use crate::store::StoreError;

/// Step N brings version N−1 to N; a step is never edited once released.
pub(super) const STEPS: &[&str] = &[
    include_str!("../../../migrations/sqlite/V0001__foundation.sql"),
    include_str!("../../../migrations/sqlite/V0002__promise.sql"),
    include_str!("../../../migrations/sqlite/V0003__versions.sql"),
    include_str!("../../../migrations/sqlite/V0004__delivery.sql"),
    include_str!("../../../migrations/sqlite/V0005__release.sql"),
    include_str!("../../../migrations/sqlite/V0006__vault.sql"),
    include_str!("../../../migrations/sqlite/V0007__tries.sql"),
];

/// From which schema version to which a file was brought; equal where nothing was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub from: u32,
    pub to: u32,
}

/// Runs the missing steps in one transaction each; `user_version` counts them.
pub(super) fn migrate(connection: &mut Connection) -> Result<Migrated, StoreError> {
    let unavailable = |e: rusqlite::Error| StoreError::Unavailable(e.to_string());
    let known = known();
    let found = version(connection)?;
    for (step, version) in STEPS.iter().zip(1_u32..).skip(found as usize) {
        let transaction = connection.transaction().map_err(unavailable)?;
        transaction.execute_batch(step).map_err(unavailable)?;
        transaction.pragma_update(None, "user_version", version).map_err(unavailable)?;
        transaction.commit().map_err(unavailable)?;
    }
    Ok(Migrated { from: found, to: known })
}

/// The version that this build makes.
fn known() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// The version of a file; one that this build cannot read is refused.
pub(super) fn version(connection: &Connection) -> Result<u32, StoreError> {
    let known = known();
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    if found > known { Err(StoreError::TooNew { found, known }) } else { Ok(found) }
}
