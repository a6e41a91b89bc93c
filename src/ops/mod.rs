//! Floor 5: what operators run the service by: logs, metrics, self-checks, the
//! daily training.

pub mod daily;
pub mod doctor;
pub mod telemetry;
