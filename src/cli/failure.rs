//! Errors of commands, and their exit codes.

use std::io;

use crate::error::{RunError, StartError};

/// Exit code: `verify` found a difference.
const DIFFERENCE: u8 = 1;
/// Exit code: bad usage, or a bad configuration.
pub(super) const USAGE: u8 = 64;
/// Exit code: a port, or a service that the command needs, is unavailable.
pub(super) const UNAVAILABLE: u8 = 69;
/// Exit code: an internal error.
const SOFTWARE: u8 = 70;

/// The error of a command; its variant decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Difference(String),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{0}")]
    Internal(#[from] io::Error),
}

impl Failure {
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Start(StartError::Config(_)) | Self::Usage(_) => USAGE,
            Self::Start(StartError::Listen { .. }) | Self::Unavailable(_) => UNAVAILABLE,
            Self::Difference(_) => DIFFERENCE,
            Self::Run(_) | Self::Internal(_) => SOFTWARE,
        }
    }
}
