//! What can go wrong while a lab is built.

use std::fmt;
use std::io;

/// A step that failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A call to the kernel failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The description of a topology, or what the user typed, makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something that this machine lacks.
    #[error("{0}")]
    Missing(String),
}

/// Shorthand for this module.
pub type Result<T> = std::result::Result<T, LabError>;

/// Says what was being done when a call failed.
pub(crate) trait Doing<T> {
    /// Attaches the text, which is made only when it is needed.
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| LabError::System { what: what().to_string(), source: e.into() })
    }
}
