//! Versions of the specification, and its verbs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of the specification. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// A text that is no version that we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CNI version {0:?} is not one of 0.1.0 to 1.1.0")]
pub struct UnknownVersion(String);

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const CURRENT: Self = Self::V1_1_0;

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether the version has the verb (0.4.0: CHECK; 1.1.0: GC and STATUS).
    pub fn has(self, command: Command) -> bool {
        match command {
            Command::Add | Command::Del | Command::Version => true,
            Command::Check => self >= Self::V0_4_0,
            Command::Gc | Command::Status => self >= Self::V1_1_0,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    /// No version at all means 0.1.0, as in libcni.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        let unknown = || UnknownVersion(text.chars().take(40).collect());
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(unknown)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.as_str().into()
    }
}

impl TryFrom<String> for Version {
    type Error = UnknownVersion;

    fn try_from(text: String) -> Result<Self, UnknownVersion> {
        text.parse()
    }
}

/// What a plugin is asked to do: `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the specification's own verbs")]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// As `CNI_COMMAND` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The verb of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_they_came() {
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::CURRENT));
        assert_eq!("".parse(), Ok(Version::V0_1_0));
        assert!("1.2.0".parse::<Version>().is_err() && "1.0".parse::<Version>().is_err());
    }

    #[test]
    fn verbs_come_with_versions() {
        assert!(!Version::V0_3_1.has(Command::Check) && Version::V0_4_0.has(Command::Check));
        assert!(!Version::V1_0_0.has(Command::Gc) && Version::V1_1_0.has(Command::Status));
        assert_eq!(Command::parse("DEL"), Some(Command::Del));
        assert_eq!(Command::parse("del"), None);
    }
}
