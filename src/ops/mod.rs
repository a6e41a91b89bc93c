//! Floor 5: what operators run the service by: logs, metrics, self-checks.

pub mod doctor;
pub mod telemetry;
