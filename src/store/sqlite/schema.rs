//! Brings a database file to the schema of this build, step by step.

use rusqlite::Connection;

use crate::store::StoreError;

/// Step N brings version N−1 to N; a step is never edited once released.
const STEPS: &[&str] = &[
    include_str!("../../../migrations/sqlite/V0001__foundation.sql"),
    include_str!("../../../migrations/sqlite/V0002__promise.sql"),
    include_str!("../../../migrations/sqlite/V0003__versions.sql"),
    include_str!("../../../migrations/sqlite/V0004__delivery.sql"),
];

/// Runs the missing steps in one transaction each; `user_version` counts them.
pub(super) fn migrate(connection: &mut Connection) -> Result<u32, StoreError> {
    let unavailable = |e: rusqlite::Error| StoreError::Unavailable(e.to_string());
    let known = u32::try_from(STEPS.len()).unwrap_or(u32::MAX);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(unavailable)?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (step, version) in STEPS.iter().zip(1_u32..).skip(found as usize) {
        let transaction = connection.transaction().map_err(unavailable)?;
        transaction.execute_batch(step).map_err(unavailable)?;
        transaction.pragma_update(None, "user_version", version).map_err(unavailable)?;
        transaction.commit().map_err(unavailable)?;
    }
    Ok(known)
}
