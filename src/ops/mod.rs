//! Floor 5: what operators run the service by: logs, metrics, self-checks, backups, the daily training.

pub mod backup;
pub mod daily;
pub mod doctor;
pub mod telemetry;
