//! Floor 4: the threads that own the models. Work reaches them by bounded queues.

pub mod embed;
pub mod generate;

use std::sync::mpsc::{Receiver, RecvTimeoutError};

use crate::model::{Control, ModelError};

/// Grouped by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The queue is full, or takes longer than there is time: tell the customer that a person
    /// follows, do not wait.
    #[error("too much {0} is waiting: let a person take over, or try again in some seconds")]
    Overloaded(&'static str),
    /// The model could not be loaded, or its thread ended.
    #[error("the {model} is not available: {reason}")]
    Unavailable { model: &'static str, reason: String },
    #[error(transparent)]
    Model(ModelError),
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        if let ModelError::Overloaded { url, status } = &error {
            tracing::warn!(url, status, "a remote model asks for fewer requests");
            return Self::Overloaded("remote model's");
        }
        Self::Model(error)
    }
}

/// What the model's thread answers. The thread looks at deadlines between passes; who waits need not
/// stay for the pass, nor for the weights to be loaded.
fn answer_in_time<T>(
    answer: &Receiver<Result<T, EngineError>>,
    control: &Control,
    model: &'static str,
) -> Result<T, EngineError> {
    let received = match control.deadline {
        Some(deadline) => answer.recv_timeout(deadline.remaining()),
        None => answer.recv().map_err(RecvTimeoutError::from),
    };
    received.unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => ModelError::DeadlinePassed.into(),
            RecvTimeoutError::Disconnected => gone(model),
        })
    })
}

fn gone(model: &'static str) -> EngineError {
    EngineError::Unavailable { model, reason: "its thread has ended".into() }
}
