//! The tracing subscriber: text or JSON lines on standard error, where systemd and a terminal both look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Logging that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("log.level {level:?} is neither a level nor a list of module=level")]
    Level {
        /// As configured.
        level: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody set it up before.
    #[error("logging is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the process's events to standard error from now on.
///
/// # Errors
/// When the level is malformed, or it was called before.
pub fn init_logs(log: &Log) -> Result<(), LogError> {
    let level = |source| LogError::Level { level: log.level.clone(), source };
    let filter = EnvFilter::try_new(&log.level).map_err(level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    }
    .map_err(LogError::Twice)
}
