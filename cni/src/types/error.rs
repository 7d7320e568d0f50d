//! The error that a plugin answers with (specification, section 5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure: below 100 the specification's own, from 100 on the plugin's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The version asked for is not supported.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown: it does not exist (any more).
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A required variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// The input is not what it should be.
    pub const DECODING: Self = Self(6);
    /// The configuration is wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// It may work later.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: the plugin cannot serve an ADD.
    pub const UNAVAILABLE: Self = Self(50);
    /// STATUS: nor would containers that run have their connections.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// Whatever else.
    pub const INTERNAL: Self = Self(999);
}

/// A failed call of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct CniError {
    /// The version of the call; plugins before 1.0 do not tell it.
    #[serde(rename = "cniVersion", default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its kind.
    pub code: Code,
    /// What failed, in a line.
    pub msg: String,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error of a kind.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { version: None, code, msg: msg.into(), details: String::new() }
    }

    /// A wrong configuration.
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(Code::INVALID_CONFIG, msg)
    }

    /// An error with its causes in one line.
    pub fn of(code: Code, error: &dyn std::error::Error) -> Self {
        let mut msg = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !msg.ends_with(&text) {
                msg.push_str(": ");
                msg.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(code, msg)
    }

    /// The same with its context in front.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.msg = format!("{context}: {}", self.msg);
        self
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(out, "; {}", self.details)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_and_written_as_plugins_do() {
        let text = r#"{"code": 7, "msg": "bad", "details": "very"}"#;
        let error: CniError = serde_json::from_str(text).unwrap();
        assert_eq!((error.code, error.to_string().as_str()), (Code::INVALID_CONFIG, "bad; very"));
        let written = super::super::pretty(&CniError::new(Code::INTERNAL, "x")).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "{\n    \"code\": 999,\n    \"msg\": \"x\"\n}");
    }
}
