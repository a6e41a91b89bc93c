//! Floor 5: what operators run the service by: logs, metrics, self-checks, backups.

pub mod backup;
pub mod doctor;
pub mod telemetry;
