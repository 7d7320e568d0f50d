//! The tracing subscriber: text or JSON lines on standard error, where systemd and a terminal both look.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
    let filter = parse_level(&log.level).map_err(level)?;
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => builder.finish().with(filter).try_init(),
        LogFormat::Json => {
            let json = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.finish().with(filter).try_init()
        }
    }
    .map_err(|error| LogError::Twice(Box::new(error)))
}

/// What `log.level` means: a level, or a list of `module=level`.
///
/// # Errors
/// When it is neither.
pub(super) fn parse_level(level: &str) -> Result<Targets, tracing_subscriber::filter::ParseError> {
    directives(level).parse()
}

/// A level by itself is ours: at `debug` the HTTP/2 library would tell of each frame.
fn directives(level: &str) -> String {
    match level.parse::<LevelFilter>() {
        Ok(ours) if ours > LevelFilter::INFO => format!("info,berth={level},cni={level}"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_is_ours_and_a_list_is_taken_as_it_is() {
        assert_eq!(directives("warn"), "warn");
        assert_eq!(directives("debug"), "info,berth=debug,cni=debug");
        assert_eq!(directives("info,h2=debug"), "info,h2=debug");
        assert!(parse_level("trace").is_ok());
        assert!(parse_level("berth=loud").is_err());
    }
}
